"""The device that other tests rehearse on: torch believes in it, and it computes when asked to."""

import null_gpu


def test_torch_believes_in_it() -> None:
    told = null_gpu.run_there(
        "x = torch.ones(4, 4, device='cuda')\n"
        "reset_counts()\n"
        "x @ x + 1\n"
        "counted = counts()\n"
        "print(torch.cuda.get_device_name(), counted['launches'] >= 1, counted['synchronizations'])"
    )
    assert told.split("\n")[0] == "NVIDIA H100 80GB HBM3 True 0"


def test_it_computes_what_a_cpu_does() -> None:
    told = null_gpu.run_there(
        "torch.manual_seed(0)\n"
        "x = torch.randn(2, 3, 8, 8)\n"
        "layer = torch.nn.Conv2d(3, 4, 3)\n"
        "expected = layer(x).square().mean()\n"
        "expected.backward()\n"
        "gradient = layer.weight.grad.clone()\n"
        "with Emulation():\n"
        "    layer.zero_grad()\n"
        "    layer.cuda()\n"
        "    found = layer(x.cuda()).square().mean()\n"
        "    found.backward()\n"
        "    print(found.item() == expected.item(), torch.equal(layer.weight.grad.cpu(), gradient))"
    )
    assert told.strip() == "True True"


def test_it_can_be_old_small_or_two() -> None:
    assert null_gpu.run_there("print(torch.cuda.is_available())", OLD_DRIVER="1").strip() == "False"
    assert null_gpu.run_there("print(torch.cuda.device_count())", DEVICES="2").strip() == "2"
    told = null_gpu.run_there(
        "try:\n"
        "    torch.empty(2**28, device='cuda')\n"
        "except torch.OutOfMemoryError as error:\n"
        "    print('out of memory' in str(error))",
        MEMORY=str(2**27),
    )
    assert told.strip() == "True"
