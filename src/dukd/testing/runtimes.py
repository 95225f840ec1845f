"""What a runtime promises, to be run on one of your own: ``check_runtime(Mine())``."""

from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from dukd.deploy.runtime import ExportError, Runtime, export, verify
from dukd.networks import EDSRConfig, Network
from dukd.networks.files.weights import tensors_sha256

_NETWORK = EDSRConfig(scale=2, width=8, blocks=1, value_range=1.0)


def check_runtime(runtime: Runtime, network: Network | None = None) -> None:
    """Hold a runtime against its promises.

    Args:
        runtime: With the choices that are to be checked.
        network: What is exported; a small EDSR if left out.

    Raises:
        AssertionError: If a promise is broken; the message says which.
    """
    assert runtime.name, "a runtime has a name"
    assert runtime.suffixes, f"{runtime.name} has no endings of files"
    for suffix in runtime.suffixes:
        assert suffix == suffix.lower(), f"{suffix} is not in lower case"
        assert suffix.startswith("."), f"{suffix} does not begin with a dot"
    if network is None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            network = _NETWORK.build().frozen()
    before = tensors_sha256(network.state_dict())
    with TemporaryDirectory() as folder:
        path = Path(folder) / f"network{runtime.suffixes[0]}"
        try:
            done = export(network, path, runtime)
        except ExportError as error:
            raise AssertionError(f"{runtime.name}: {error}") from error
        assert path.exists(), f"{runtime.name} wrote nothing to {path.name}"
        assert path.is_dir() or done.bytes >= path.stat().st_size, (
            "the size counts all files of an export"
        )
        assert tensors_sha256(network.state_dict()) == before, "the network was changed"
        _check_loaded(runtime, path, network)
        for file in path.rglob("*") if path.is_dir() else [path]:
            if file.is_file():
                file.write_bytes(b"damaged")
        refusal = _refusal(runtime, path)
        assert path.name in refusal, f"the message names no file: {refusal}"


def _check_loaded(runtime: Runtime, path: Path, network: Network) -> None:
    loaded = runtime.reload(path, network)
    assert loaded.scale == network.scale, f"the scale is {loaded.scale}, not {network.scale}"
    assert loaded.radius == network.radius, f"the radius is {loaded.radius}, not {network.radius}"
    assert loaded.size_multiple == network.size_multiple, "the size multiple was lost"
    verified = verify(network, loaded, runtime.sizes)
    assert verified.largest <= runtime.tolerance, f"off by {verified.largest:.2g}"
    n, h, w = runtime.sizes[0]
    lr = torch.rand(n, 3, h, w, generator=torch.Generator().manual_seed(0))
    kept = lr.clone()
    sr = loaded(lr)
    assert torch.equal(lr, kept), f"{runtime.name} changed its input"
    assert sr.dtype == torch.float32, f"the output is {sr.dtype}"
    assert torch.equal(loaded(lr), sr), f"{runtime.name} gives another output the second time"


def _refusal(runtime: Runtime, path: Path) -> str:
    try:
        runtime.load(path)
    except ValueError as error:
        return str(error)
    raise AssertionError(f"{runtime.name} opened a damaged file")
