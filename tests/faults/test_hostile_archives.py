"""Archives made to do harm: every kind is refused in one line, with nothing written anywhere and no code run."""

from __future__ import annotations

import hashlib
import json
import pickle
import stat
import struct
import sys
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from zipfile import ZIP_DEFLATED, ZIP_LZMA, ZIP_STORED, ZipFile, ZipInfo

import pytest
import torch
from safetensors.torch import load, save

from fuse4seg.cli.install_model import main

MODEL = "Dataset990_Phantom/Fuse4SegTrainer__Fuse4SegPlans__2d"
WEIGHTS, REST = f"{MODEL}/fold_0/checkpoint_final.safetensors", f"{MODEL}/fold_0/checkpoint_final.json"
PLANS, DATASET, MANIFEST = f"{MODEL}/plans.json", f"{MODEL}/dataset.json", "manifest.json"
#: Where the code of a canary would leave its mark; what imports the module of that name leaves one.
MARK, MODULE = "ran.txt", "canary_of_hostile_archives"


class RunsCode:
    """Leaves a mark when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.mark,)


@dataclass
class Packed:
    """An archive in the making.

    Attributes:
        content: Of its members.
        outside: A folder that nothing may be written to.
        changed: What differs from a plain member, by name.
        extra: Members that stand behind the others, whatever their names.
    """

    content: dict[str, bytes]
    outside: Path
    changed: dict[str, ZipInfo] = field(default_factory=dict)
    extra: list[tuple[ZipInfo, bytes]] = field(default_factory=list)

    def edit_json(self, name: str, edit: Callable[[Any], Any], *, signed: bool = True) -> None:
        """Change a member of JSON; with a checksum that fits unless told otherwise."""
        content = json.loads(self.content[name])
        result = edit(content)
        self.content[name] = json.dumps(content if result is None else result).encode()
        if signed and name != MANIFEST:
            self.sign(name)

    def put(self, name: str, content: bytes) -> None:
        self.content[name] = content
        self.sign(name)

    def sign(self, name: str) -> None:
        """Give a member the checksum it should have."""
        digest = hashlib.sha256(self.content[name]).hexdigest()
        self.edit_json(MANIFEST, lambda manifest: manifest["checksums"].update({name: digest}))

    def edit_architecture(self, edit: Callable[[dict[str, Any]], None]) -> None:
        self.edit_json(PLANS, lambda plans: edit(plans["configurations"]["2d"]["architecture"]))

    def write(self, path: Path) -> None:
        with ZipFile(path, "w", ZIP_STORED) as archive:
            for name, content in self.content.items():
                archive.writestr(self.changed.get(name, ZipInfo(name)), content)
            for member, content in self.extra:
                archive.writestr(member, content)


def special(name: str, kind: int) -> ZipInfo:
    member = ZipInfo(name)
    member.create_system, member.external_attr = 3, (kind | 0o777) << 16
    return member


def compressed(name: str, how: int) -> ZipInfo:
    member = ZipInfo(name)
    member.compress_type = how
    return member


def names(place: str, name: str) -> Callable[[Packed], None]:
    """Plans in which ``place`` of the architecture names something."""

    def edit(architecture: dict[str, Any]) -> None:
        inner = architecture
        *way, last = place.split("/")
        for step in way:
            inner = inner[step]
        inner[last] = name

    return lambda packed: packed.edit_architecture(edit)


def configuration_names(entry: str, name: Any) -> Callable[[Packed], None]:
    return lambda packed: packed.edit_json(PLANS, lambda plans: plans["configurations"]["2d"].update({entry: name}))


def plans_name(entry: str, name: Any) -> Callable[[Packed], None]:
    return lambda packed: packed.edit_json(PLANS, lambda plans: plans.update({entry: name}))


def rest_says(**entries: Any) -> Callable[[Packed], None]:
    return lambda packed: packed.edit_json(REST, lambda rest: rest.update(entries))


def manifest_says(edit: Callable[[dict[str, Any]], Any]) -> Callable[[Packed], None]:
    return lambda packed: packed.edit_json(MANIFEST, edit)


def add(member: ZipInfo | str, content: bytes = b"x") -> Callable[[Packed], None]:
    named = member if isinstance(member, ZipInfo) else ZipInfo(member)
    return lambda packed: packed.extra.append((named, content))


def become(name: str, member: ZipInfo) -> Callable[[Packed], None]:
    return lambda packed: packed.changed.update({name: member})


def a_model_elsewhere(**parts: Any) -> Callable[[Packed], None]:
    """Everything moved to where the manifest's entry of the model leads with other parts."""

    def edit(packed: Packed) -> None:
        manifest = json.loads(packed.content[MANIFEST])
        model = manifest["models"][0] | parts
        folder = f"{model['dataset']}/{model['trainer']}__{model['plans']}__{model['configuration']}"
        manifest["models"] = [model]
        manifest["checksums"] = {name.replace(MODEL, folder): digest for name, digest in manifest["checksums"].items()}
        packed.content = {name.replace(MODEL, folder): content for name, content in packed.content.items()}
        packed.content[MANIFEST] = json.dumps(manifest).encode()

    return edit


def absolute(packed: Packed) -> None:
    add(f"{packed.outside}/written.txt")(packed)


def outside_by_dots(packed: Packed) -> None:
    add(f"{MODEL}/../../../../{packed.outside.name}/written.txt")(packed)


def link_to_outside(packed: Packed) -> None:
    add(special(f"{MODEL}/fold_0/link", stat.S_IFLNK), str(packed.outside).encode())(packed)


def pickle_for_weights(packed: Packed) -> None:
    packed.put(WEIGHTS, pickle.dumps(RunsCode(packed.outside / MARK)))


def checkpoint_for_weights(packed: Packed) -> None:
    torch.save({"network_weights": RunsCode(packed.outside / MARK)}, packed.outside.parent / "hostile.pth")
    packed.put(WEIGHTS, (packed.outside.parent / "hostile.pth").read_bytes())
    (packed.outside.parent / "hostile.pth").unlink()


def pickle_for_rest(packed: Packed) -> None:
    packed.put(REST, pickle.dumps(RunsCode(packed.outside / MARK)))


def pickle_beside(packed: Packed) -> None:
    packed.put(f"{MODEL}/fold_0/checkpoint_best.pth", pickle.dumps(RunsCode(packed.outside / MARK)))


def other_weights(packed: Packed) -> None:
    tensors = load(packed.content[WEIGHTS])
    tensors[min(tensors)] = torch.zeros(3)
    packed.put(WEIGHTS, save(tensors))


def header_without_end(packed: Packed) -> None:
    packed.put(WEIGHTS, struct.pack("<Q", 2**62) + packed.content[WEIGHTS][8:])


def bomb_of_zeros(packed: Packed) -> None:
    packed.put(WEIGHTS, bytes(64 << 20))
    packed.changed[WEIGHTS] = compressed(WEIGHTS, ZIP_DEFLATED)


def huge_network(architecture: dict[str, Any]) -> None:
    """Weights of gigabytes, should it ever be built."""
    follower = architecture["arch_kwargs"]["follower"]["arch_kwargs"]
    follower["features_per_stage"] = [16000] * len(follower["features_per_stage"])


def endless_network(architecture: dict[str, Any]) -> None:
    architecture["arch_kwargs"]["follower"]["arch_kwargs"]["n_stages"] = 10**12


def nested(packed: Packed) -> None:
    packed.content[MANIFEST] = b"[" * 200_000


FOLLOWER = "arch_kwargs/follower"
KINDS: dict[str, Callable[[Packed], None]] = {
    "absolute path": absolute,
    "dots": outside_by_dots,
    "backslashes": add("..\\..\\written.txt"),
    "drive": add("C:/written.txt"),
    "empty part": add(f"{MODEL}//plans.json"),
    "folder entry": add(f"{MODEL}/fold_0/validation/", b""),
    "hidden control character": add(f"{MODEL}/pl\x1bans.json"),
    "link": link_to_outside,
    "link in a file's place": become(PLANS, special(PLANS, stat.S_IFLNK)),
    "device": add(special(f"{MODEL}/fold_0/device", stat.S_IFBLK)),
    "pipe": add(special(f"{MODEL}/fold_0/pipe", stat.S_IFIFO)),
    "same name twice": add(PLANS, b"{}"),
    "same name in other case": add(PLANS.replace("plans", "PLANS"), b"{}"),
    "bomb of zeros": bomb_of_zeros,
    "too many members": lambda packed: packed.extra.extend((ZipInfo(f"{number}"), b"") for number in range(1001)),
    "unusual compression": become(PLANS, compressed(PLANS, ZIP_LZMA)),
    "wrong checksum": manifest_says(lambda manifest: manifest["checksums"].update({PLANS: "0" * 64})),
    "changed behind its checksum": lambda packed: packed.edit_json(DATASET, lambda _: {}, signed=False),
    "no checksum": manifest_says(lambda manifest: manifest["checksums"].pop(PLANS) and None),
    "checksum of nothing": manifest_says(lambda manifest: manifest["checksums"].update({"nothing": "0" * 64})),
    "checksums that are none": manifest_says(lambda manifest: manifest.update(checksums=dict.fromkeys(manifest["checksums"]))),
    "unknown member": add(f"{MODEL}/readme.txt"),
    "member missing": lambda packed: packed.content.pop(REST) and None,
    "no manifest": lambda packed: packed.content.pop(MANIFEST) and None,
    "later format": manifest_says(lambda manifest: manifest.update(format_version=2)),
    "other format": manifest_says(lambda manifest: manifest.update(format="other")),
    "manifest nested without end": nested,
    "manifest that is no object": manifest_says(lambda _: [1]),
    "dataset that leads elsewhere": a_model_elsewhere(dataset="../outside"),
    "dataset with dots inside": a_model_elsewhere(dataset="Dataset990_a/../../outside"),
    "trainer that leads elsewhere": a_model_elsewhere(trainer="../../outside/x"),
    "hidden trainer": a_model_elsewhere(trainer=".x"),
    "dataset that leads elsewhere in the manifest alone": manifest_says(lambda manifest: manifest["models"][0].update(
        dataset="Dataset990_a/../../outside")),
    "fold that leads elsewhere": manifest_says(lambda manifest: manifest["models"][0].update(folds=["../../x"])),
    "checkpoint that leads elsewhere": manifest_says(lambda manifest: manifest["models"][0].update(checkpoints=["../x.pth"])),
    "checkpoint that is Python": manifest_says(lambda manifest: manifest["models"][0].update(checkpoints=["x.py"])),
    "model twice": manifest_says(lambda manifest: manifest.update(models=manifest["models"] * 2)),
    "pickle for weights": pickle_for_weights,
    "checkpoint with code for weights": checkpoint_for_weights,
    "pickle for JSON": pickle_for_rest,
    "pickle beside": pickle_beside,
    "weights of another network": other_weights,
    "weights' header without end": header_without_end,
    "weights shared with nothing": rest_says(shared={"a": "b"}),
    "no order of weights": rest_says(order=["a"]),
    "trainer's name a path": rest_says(trainer_name="os.system"),
    "axes that are none": rest_says(inference_allowed_mirroring_axes=[7]),
    "recipe that is none": rest_says(recipe={"training": {"modality_dropout": "x"}}),
    "configuration of another": rest_says(configuration="3d_fullres"),
    "network os.system": names("network_class_name", "os.system"),
    "network in a package's imports": names("network_class_name",
                                            "dynamic_network_architectures.building_blocks.helper.torch.hub.load"),
    "network imported by nnU-Net": names("network_class_name", "nnunetv2.utilities.find_class_by_name.os.system"),
    "network that is no string": names("network_class_name", ["os", "system"]),
    "network not ours": names("network_class_name", "dynamic_network_architectures.architectures.unet.PlainConvUNet"),
    "module run by import": names("network_class_name", f"{MODULE}.Network"),
    "module run by import, for a block": names("arch_kwargs/conv_op", f"{MODULE}.Network"),
    "module run by import, in the follower": names(f"{FOLLOWER}/network_class_name", f"{MODULE}.Network"),
    "module run by import, in its block": names(f"{FOLLOWER}/arch_kwargs/norm_op", f"{MODULE}.Network"),
    "follower that is a function": names(f"{FOLLOWER}/network_class_name", "torch.nn.init.torch.load"),
    "block that is code": names(f"{FOLLOWER}/arch_kwargs/nonlin", "torch.nn.modules.module.Module.__init__.__globals__"),
    "imports of what is not there": names("_kw_requires_import", "conv_op"),
    "network of gigabytes": lambda packed: packed.edit_architecture(huge_network),
    "network without end": lambda packed: packed.edit_architecture(endless_network),
    "preprocessor": configuration_names("preprocessor_name", "shutil"),
    "resampling": configuration_names("resampling_fn_data", "OrderedDict"),
    "resampling's arguments": configuration_names("resampling_fn_seg_kwargs", {"run": "x"}),
    "normalisation": configuration_names("normalization_schemes", ["np"] * 4),
    "patch of everything": configuration_names("patch_size", [2**40, 2**40]),
    "configuration that inherits itself": configuration_names("inherits_from", "2d"),
    "reader": plans_name("image_reader_writer", "os"),
    "label manager": plans_name("label_manager", "np"),
    "planner": plans_name("experiment_planner_used", "../x"),
    "plans without configurations": plans_name("configurations", []),
    "dataset.json without channels": lambda packed: packed.put(DATASET, b"{}"),
    "fingerprint that is a list": lambda packed: packed.put(f"{MODEL}/dataset_fingerprint.json", b"[1, 2]"),
}


def overlapping(content: bytearray) -> bytearray:
    """Let the last member begin inside the first one, as bombs of small ratio do."""
    entry = content.rindex(b"PK\x01\x02")
    struct.pack_into("<I", content, entry + 42, 60)
    return content


def larger_than_declared(content: bytearray) -> bytearray:
    """Halve the size that every header of the weights states; the data behind it is what it was."""
    for signature, offset in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
        start = content.rindex(WEIGHTS.encode(), 0, content.index(b"PK\x01\x02") if offset == 22 else len(content))
        entry = content.rindex(signature, 0, start)
        struct.pack_into("<I", content, entry + offset, struct.unpack_from("<I", content, entry + offset)[0] // 2)
    return content


def encrypted(content: bytearray) -> bytearray:
    entry = content.index(b"PK\x01\x02")
    content[entry + 8] |= 1
    return content


def name_cut_by_zero(content: bytearray) -> bytearray:
    """A name that Python takes for plans.json and others for something longer."""
    return content.replace(b"/plans.json", b"/plans\x00json")


BYTES: dict[str, Callable[[bytearray], bytearray]] = {
    "overlapping members": overlapping,
    "larger than declared": larger_than_declared,
    "encrypted": encrypted,
    "name cut by a zero": name_cut_by_zero,
    "truncated": lambda content: content[:-50],
    "no archive": lambda _: bytearray(pickle.dumps([1])),
    "empty": lambda _: bytearray(),
    "empty archive": lambda _: bytearray(b"PK\x05\x06" + bytes(18)),
}


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Folder of a results root, a folder outside of it, and a module on the path that leaves a mark when imported."""
    for folder in ("roots/nnUNet_results", "outside", "modules"):
        (tmp_path / folder).mkdir(parents=True)
    module = f"from pathlib import Path\nPath({str(tmp_path / 'outside' / MARK)!r}).touch()\n"
    (tmp_path / "modules" / f"{MODULE}.py").write_text(f"import torch\n{module}class Network(torch.nn.Module): ...\n")
    monkeypatch.syspath_prepend(tmp_path / "modules")
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    yield tmp_path
    assert MODULE not in sys.modules


def listing(folder: Path) -> list[tuple[str, int]]:
    return sorted((str(path), path.stat().st_size) for path in folder.rglob("*") if path.is_file() or path.is_dir())


def assert_refused(archive: Path, place: Path, capsys: pytest.CaptureFixture[str]) -> str:
    before = listing(place)
    status = main([str(archive), "--root", str(place / "roots")])
    lines = capsys.readouterr().err.splitlines()
    assert status == 1
    assert listing(place) == before
    assert [line for line in lines if line.startswith("error: ")] == lines[-1:]
    assert "Traceback" not in "".join(lines)
    assert str(archive) in lines[-1]
    return lines[-1]


def packed_of(exported_model: Path, place: Path) -> Packed:
    with ZipFile(exported_model) as archive:
        return Packed({name: archive.read(name) for name in archive.namelist()}, place / "outside")


class TestHostileArchive:
    @pytest.mark.filterwarnings("ignore:Duplicate name")
    @pytest.mark.parametrize("kind", KINDS)
    def test_is_refused(self, kind: str, exported_model: Path, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
        packed = packed_of(exported_model, place)
        KINDS[kind](packed)
        packed.write(place / "hostile.zip")
        assert_refused(place / "hostile.zip", place, capsys)

    @pytest.mark.parametrize("kind", BYTES)
    def test_of_bytes_is_refused(self, kind: str, exported_model: Path, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
        (place / "hostile.zip").write_bytes(BYTES[kind](bytearray(exported_model.read_bytes())))
        assert_refused(place / "hostile.zip", place, capsys)

    def test_by_nnunet_is_refused_with_the_way_to_install_it(self, untrained_model: Path, place: Path,
                                                             capsys: pytest.CaptureFixture[str]) -> None:
        with ZipFile(place / "stock.zip", "w") as archive:
            for path in untrained_model.rglob("*.*"):
                archive.write(path, f"{MODEL}/{path.relative_to(untrained_model)}")
        assert "nnUNetv2_install" in assert_refused(place / "stock.zip", place, capsys)

    def test_unchanged_is_installed(self, exported_model: Path, place: Path) -> None:
        """The way all kinds above are made breaks nothing by itself, and the canary sings."""
        packed = packed_of(exported_model, place)
        packed.write(place / "sound.zip")
        assert main([str(place / "sound.zip"), "--root", str(place / "roots")]) == 0
        pickle.loads(pickle.dumps(RunsCode(place / "outside" / MARK)))
        assert (place / "outside" / MARK).is_file()
        assert zipfile.is_zipfile(place / "sound.zip")
