"""Banks in files: what comes back is what was saved, and a failure leaves no trace."""

import json
import re
from pathlib import Path

import pytest
import torch
from features import features
from problems import DTYPES, METRICS
from programs import output_of
from safetensors.torch import load_file, save_file
from screens import SCREENS, needs_int8
from torch import Tensor

from flashmatch import topk
from flashmatch.kernels import PrototypeBank
from flashmatch.kernels.codes.layout import Layout
from flashmatch.kernels.files import tensor_file
from flashmatch.kernels.storage import bank_file
from flashmatch.kernels.torch_backend import int8_scan

pytestmark = pytest.mark.usefixtures("poisoned_empty", "screened_in_pieces")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "bank.safetensors"


def rows_of(count: int = 2500, kind: str = "gaussian", channels: int = 16) -> Tensor:
    return features(kind, count, channels, torch.Generator().manual_seed(0)).float()


def assert_equal_banks(actual: PrototypeBank, expected: PrototypeBank) -> None:
    for name in ("metric", "dim", "dtype", "screen"):
        assert getattr(actual, name) == getattr(expected, name)
    assert torch.equal(actual.ids, expected.ids)
    generator = torch.Generator().manual_seed(1)
    queries = features("gaussian", 7, expected.dim, generator)
    for k in sorted({min(10, len(expected)), len(expected)}):
        mask = torch.rand(7, len(expected), generator=generator) < 0.7
        assert all(map(torch.equal, actual.topk(queries, k), expected.topk(queries, k)))
        found, wanted = (bank.topk(queries, k, mask=mask) for bank in (actual, expected))
        assert all(map(torch.equal, found, wanted))


@pytest.mark.parametrize("screen", SCREENS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("metric", METRICS)
def test_what_was_saved_comes_back(
    metric: str, dtype: torch.dtype, screen: str, path: Path
) -> None:
    ids = torch.randperm(2500) + 9
    bank = PrototypeBank(rows_of().to(dtype), metric=metric, ids=ids, screen=screen)
    bank.save(path)
    assert_equal_banks(PrototypeBank.load(path), bank)
    assert_equal_banks(PrototypeBank.load(str(path)), bank)


@needs_int8
@pytest.mark.parametrize("kind", ["heavy", "gaussian", "offset"])
@pytest.mark.parametrize("metric", METRICS)
def test_codes_come_back_and_are_not_made_again(
    metric: str, kind: str, path: Path, coded_rows: list[int]
) -> None:
    bank = PrototypeBank(rows_of(kind=kind, channels=64), metric=metric, screen="int8")
    bank.save(path)
    del coded_rows[:]
    loaded = PrototypeBank.load(path)
    assert coded_rows == []
    codes, saved = loaded._state.coder.codes, bank._state.coder.codes
    assert (codes.frame.rotation is not None) == (kind == "heavy")
    for name, (tensor,) in saved.in_use().items():
        assert torch.equal(codes.in_use()[name][0], tensor)
    assert torch.equal(codes.codes, saved.codes)
    assert_equal_banks(loaded, bank)
    for each in (loaded, bank):  # and both go on alike
        each.add(rows_of(3000, kind, 64))
        each.remove(range(1000, 1100))
    assert_equal_banks(loaded, bank)
    assert loaded.nbytes > 5400 * 64


@needs_int8
def test_codes_laid_out_otherwise_are_made_again(
    path: Path, coded_rows: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    bank = PrototypeBank(rows_of(), screen="int8")
    bank.save(path)
    del coded_rows[:]
    monkeypatch.setattr(int8_scan, "LAYOUT", Layout(span=1024, group=32, width_multiple=4))
    assert_equal_banks(PrototypeBank.load(path), bank)
    assert sum(coded_rows) == 2500


@pytest.mark.parametrize("screen", SCREENS)
@pytest.mark.parametrize("gone", [range(5), range(0, 2500, 2), range(2400), range(2500)])
def test_rows_that_are_gone_are_not_saved(gone: range, screen: str, path: Path) -> None:
    rows = rows_of()
    bank = PrototypeBank([rows[:1500], rows[1500:].half()], screen=screen)
    bank.remove(gone)
    bank.save(path)
    loaded = PrototypeBank.load(path)
    assert_equal_banks(loaded, bank)
    assert len(load_file(path)["prototypes"]) == 2500 - len(gone)
    loaded.add(rows[:7], ids=range(10_000, 10_007))
    bank.add(rows[:7], ids=range(10_000, 10_007))
    assert_equal_banks(loaded, bank)


@pytest.mark.parametrize("screen", SCREENS)
@pytest.mark.parametrize("gone", [[], [3, 700]])
def test_excluded_rows_stay_excluded(gone: list[int], screen: str, path: Path) -> None:
    rows = rows_of()
    rows[[0, 5, 1024, 2499]] = torch.nan
    bank = PrototypeBank(rows, screen=screen, nonfinite="exclude")
    bank.remove(gone)
    bank.save(path)
    loaded = PrototypeBank.load(path)
    assert_equal_banks(loaded, bank)
    scores, indices = loaded.topk(torch.full((1, 16), torch.inf), 3)
    assert (scores == -torch.inf).all()
    assert (indices == -1).all()
    assert loaded.add(torch.full((1, 16), torch.nan)).tolist() == [2500]


@pytest.mark.parametrize("screen", SCREENS)
def test_an_empty_bank_can_be_saved(screen: str, path: Path) -> None:
    bank = PrototypeBank(torch.empty(0, 5, dtype=torch.float16), screen=screen, metric="dot")
    bank.save(path)
    loaded = PrototypeBank.load(path)
    assert (len(loaded), loaded.dim, loaded.dtype) == (0, 5, torch.float16)
    for each in (loaded, bank):
        each.add(rows_of(channels=5))
    assert_equal_banks(loaded, bank)


def test_a_norm_too_large_for_the_screen_is_saved_as_float(path: Path) -> None:
    rows = rows_of()
    rows[4] *= 1e25
    bank = PrototypeBank(rows, metric="dot")
    bank.save(path)
    assert_equal_banks(PrototypeBank.load(path), bank)


def test_vectors_are_mapped_not_read(path: Path) -> None:
    PrototypeBank(rows_of()).save(path)
    loaded = PrototypeBank.load(path)
    (chunk,) = loaded._state.collection.rows.chunks
    mappings = Path("/proc/self/maps")
    if not mappings.exists():
        pytest.skip("nothing tells what is mapped here")
    assert _is_mapped_from(path, chunk.data_ptr())
    assert not _is_mapped_from(path, rows_of().data_ptr())
    loaded.remove(range(2000))  # nor is what is left copied
    assert loaded._state.collection.rows.chunks[0].data_ptr() == chunk.data_ptr()


def _is_mapped_from(path: Path, address: int) -> bool:
    for line in Path("/proc/self/maps").read_text().splitlines():
        start, stop = (int(part, 16) for part in line.split()[0].split("-"))
        if start <= address < stop:
            return line.endswith(str(path))
    return False


@pytest.mark.parametrize("stage", ["_blocks", "as_bytes"])
@pytest.mark.parametrize("exists", [True, False])
def test_a_failed_save_leaves_no_trace(
    stage: str, exists: bool, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if exists:
        PrototypeBank(rows_of(10)).save(path)
    before = path.read_bytes() if exists else None
    calls = 0
    original = getattr(tensor_file, stage)

    def failing(*arguments: object) -> object:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise OSError("no space left on device")
        return original(*arguments)

    monkeypatch.setattr(tensor_file, stage, failing)
    with pytest.raises(OSError, match="no space left"):
        PrototypeBank(rows_of()).save(path)
    assert [p.name for p in path.parent.iterdir()] == ([path.name] if exists else [])
    assert (path.read_bytes() if exists else None) == before


def test_safetensors_reads_what_save_wrote(path: Path) -> None:
    rows = rows_of().bfloat16()
    bank = PrototypeBank(rows, ids=torch.arange(2500) * 3)
    bank.save(path)
    tensors = load_file(path)
    assert torch.equal(tensors["prototypes"], rows)
    assert torch.equal(tensors["ids"], bank.ids)
    with pytest.raises(
        ValueError, match=r"prototypes must be a file of vectors alone.*PrototypeBank"
    ):
        PrototypeBank(path)  # its ids and its metric would be lost


def test_another_process_reads_the_same(path: Path) -> None:
    bank = PrototypeBank(rows_of(kind="heavy", channels=64))
    bank.save(path)
    program = (
        "import sys, torch; from flashmatch.kernels import PrototypeBank;"
        "print(PrototypeBank.load(sys.argv[1]).topk(torch.ones(1, 64), 5).indices[0].tolist())"
    )
    found = json.loads(output_of("-c", program, path))
    assert found == bank.topk(torch.ones(1, 64), 5).indices[0].tolist()


@pytest.mark.parametrize("screen", SCREENS)
@pytest.mark.parametrize("name", ["prototypes", "anything"])
def test_a_plain_safetensors_matrix_is_prototypes(name: str, screen: str, path: Path) -> None:
    rows = rows_of()
    save_file({name: rows, "labels": torch.arange(9), "bias": torch.ones(16)}, path)
    bank = PrototypeBank(path, screen=screen, metric="l2")
    assert_equal_banks(bank, PrototypeBank(rows, screen=screen, metric="l2"))
    assert_equal_banks(PrototypeBank(str(path), screen=screen, metric="l2"), bank)


def test_the_matrix_called_prototypes_is_preferred(path: Path) -> None:
    save_file({"a": torch.zeros(3, 2), "prototypes": torch.ones(4, 2)}, path)
    assert len(PrototypeBank(path)) == 4


@pytest.mark.parametrize(
    "tensors",
    [
        {"a": torch.zeros(3, 2), "b": torch.ones(4, 2)},
        {"a": torch.zeros(3), "b": torch.ones(4, 2, dtype=torch.int64)},
        {"a": torch.zeros(2, 2, 2), "b": torch.ones(4)},
    ],
)
def test_files_without_one_matrix_are_refused(tensors: dict[str, Tensor], path: Path) -> None:
    save_file(tensors, path)
    with pytest.raises(
        ValueError, match=r"prototypes must be a file of a floating .* of \['a', 'b'\]"
    ):
        PrototypeBank(path)


def test_missing_files_are_named(tmp_path: Path) -> None:
    for make, name in ((PrototypeBank, "prototypes"), (PrototypeBank.load, "path")):
        for missing, got in ((tmp_path / "nowhere", ""), (tmp_path, "the folder ")):
            message = f"{name} must be an existing file; got {got}'{missing}'"
            with pytest.raises(FileNotFoundError, match=f"^{re.escape(message)}$"):
                make(missing)


@pytest.mark.parametrize("kept", [0, 7, 8, 100, 0.5, -1])
def test_truncated_files_are_refused(kept: float, path: Path) -> None:
    PrototypeBank(rows_of(300)).save(path)
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content)) if kept == 0.5 else kept])
    for make, name in ((PrototypeBank, "prototypes"), (PrototypeBank.load, "path")):
        with pytest.raises(ValueError, match=f"^{name} must be a safetensors file; got '{path}'"):
            make(path)


def test_other_files_are_refused(path: Path) -> None:
    path.write_bytes(b"Never a safetensors file. " * 100)
    for make, name in ((PrototypeBank, "prototypes"), (PrototypeBank.load, "path")):
        with pytest.raises(ValueError, match=f"^{name} must be a safetensors file; got '{path}'"):
            make(path)
    for metadata in (None, {"format": "pt"}, {"format": bank_file.FORMAT + "0"}):
        save_file({"prototypes": torch.ones(3, 2)}, path, metadata)
        with pytest.raises(ValueError, match=r"path must be a file that PrototypeBank\.save wrote"):
            PrototypeBank.load(path)


def test_large_sets_are_written_in_pieces(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    largest = 0
    original = tensor_file.as_bytes

    def spy(tensor: Tensor) -> memoryview:
        nonlocal largest
        largest = max(largest, tensor.nbytes)
        return original(tensor)

    monkeypatch.setattr(tensor_file, "as_bytes", spy)
    rows = torch.zeros(1, 64).expand(300_000, 64)  # 77 MB, if ever made
    PrototypeBank(rows, screen="float").save(path)
    assert 1 << 20 < largest <= 16 << 20
    scores, indices = PrototypeBank.load(path).topk(torch.ones(1, 64), 3)
    assert indices.tolist() == [[0, 1, 2]]
    assert torch.equal(scores, topk(torch.ones(1, 64), rows[:9], 3).scores)
