"""Export the mask generator of a finished run for use elsewhere, with a model card.

python export.py run=runs/densify output=DIR

Writes model.safetensors, model.pt2 (torch.export) and, where onnxscript and onnxruntime are
installed, model.onnx, each checked against the run's network; and README.md, the model card.
"""

from collections.abc import Sequence

from maskrestore.program import end_process, run_program
from maskrestore.restore_config import ExportConfig
from maskrestore.settings import parse


def main(words: Sequence[str]) -> None:
    """Parse, export, and say what was written."""
    config = parse(ExportConfig, words)

    from maskrestore.export import export_run  # after parsing: torch takes seconds to import

    for line in export_run(config):
        print(line)


if __name__ == "__main__":
    end_process(run_program(main, __doc__, ExportConfig))
