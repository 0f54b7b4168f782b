"""Export the mask generator of a finished run for use elsewhere, with a model card.

python export.py run=runs/densify output=DIR

Writes model.safetensors, model.pt2 (torch.export) and, where onnxscript and onnxruntime are
installed, model.onnx, each checked against the run's network; and README.md, the model card.
"""

from collections.abc import Sequence

from maskrestore.config.cli import end_process, run_program
from maskrestore.config.inference import ExportConfig
from maskrestore.config.settings import parse


def main(words: Sequence[str]) -> None:
    """Parse, export, and say what was written."""
    config = parse(ExportConfig, words)

    from maskrestore.inference.export import export_run

    for line in export_run(config):
        print(line)


if __name__ == "__main__":
    end_process(run_program(main, __doc__, ExportConfig))
