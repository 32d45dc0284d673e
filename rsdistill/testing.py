"""Checks of plug-ins, as scikit-learn's ``check_estimator``: the contract part by part, then a real run.

Example:
    >>> from rsdistill.testing import check_distiller
    >>> check_distiller("random", run=False)
"""

from __future__ import annotations

import inspect
import json
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from rsdistill.bands import BandSet, get_bands
from rsdistill.classes import ClassInfo
from rsdistill.codecs import CODECS, Codec, LatentStore, create_codec, encode, load_codec
from rsdistill.datasets import DATASETS, FolderScenes, SceneData, SceneSource, load_dataset
from rsdistill.datasets.loading import create_source
from rsdistill.distilled import DistilledSet
from rsdistill.distillers import DISTILLERS, Distiller
from rsdistill.pipeline.config import parse_config
from rsdistill.pipeline.run import Run
from rsdistill.registry import Registry
from rsdistill.utils.options import TrainerOptions, plain
from rsdistill.utils.provenance import REAL

_SIZE, _IPC = 16, 2
_CLASSES, _CHIPS = ("forest", "river", "runway"), 12
_TRAINER = TrainerOptions(accelerator="cpu", progress=False)
_CODEC = {"patch": 4, "block_channels": (16,), "latent_channels": 4, "steps": 4}
_PICKLES = (".bin", ".ckpt", ".joblib", ".pickle", ".pkl", ".pt", ".pth")
_MANIFEST = ("method", "options", "ipc", "seed", "dataset", "split", "digital_source_type", "versions")


def check_dataset(dataset: str | type, options: Mapping[str, Any] | None = None, run: bool = True) -> None:
    """Check a dataset against the contract of ``SceneSource``.

    Args:
        dataset: Its registered name, or its class.
        options: Its options, such as ``root``; they should make it small, for every chip is read.
        run: Whether to go through a real run with it, too.

    Raises:
        AssertionError: If it breaks the contract; the message says how.
    """
    options = dict(options or {})
    with _registered(DATASETS, dataset) as name:
        source = create_source(name, options)
        _check_attributes(source)
        _check_labels(source)
        for index in np.unique(source.labels, return_index=True)[1].tolist():
            _check_chip(source, index)
        again = create_source(name, options)
        same = list(again.chip_ids) == list(source.chip_ids) and np.array_equal(again.read(0), source.read(0))
        _require(same, f"dataset '{name}': built twice with the same options it holds other chips")
        _check_choices(name, options, source)
        if run:
            keys = [info.key for info in source.classes[:3]]
            own = {option: value for option, value in options.items() if option not in ("root", "size", "classes")}
            root = options.get("root")
            data = {"name": name, "classes": keys, "options": own} | ({} if root is None else {"root": str(root)})
            _check_run({"data": data, "distill": {"method": "random", "ipc": 1}})


def check_codec(
    codec: str | type, options: Mapping[str, Any] | None = None, bands: str = "bgrn", run: bool = True
) -> None:
    """Check a codec against the contract of ``Codec``, on rendered scenes.

    Args:
        codec: Its registered name, or its class.
        options: Its options, such as few steps.
        bands: Sensor whose bands it is fitted on.
        run: Whether to go through a real run with it, too.

    Raises:
        AssertionError: If it breaks the contract; the message says how.
    """
    options = dict(options or {})
    with _registered(CODECS, codec) as name:
        fresh: Any = _built(CODECS, name, {"bands": get_bands(bands), **options}, Codec)
        where, factor = f"codec '{name}'", fresh.factor
        _require(fresh.name == name, f"{where}: its attribute name is '{fresh.name}'")
        for option in ("factor", "latent_channels"):
            value = getattr(fresh, option)
            _require(isinstance(value, int) and value >= 1, f"{where}: {option} is {value!r}, not a whole number >= 1")
        size = factor * max(1, _SIZE // factor)
        data = _scenes(size=size, bands=bands)
        _require(fresh.fit(data, trainer=_TRAINER) is fresh, f"{where}: fit does not return self")
        _check_ways(fresh, data, where)
        _check_saved_codec(fresh, data, where)
        if run:
            groups = {"data": {"size": size, "bands": bands}, "codec": {"name": name, "options": plain(options)}}
            _check_run({**groups, "distill": {"method": "herding", "ipc": _IPC}})


def check_distiller(distiller: str | type, options: Mapping[str, Any] | None = None, run: bool = True) -> None:
    """Check a distiller against the contract of ``Distiller``, on rendered scenes.

    Args:
        distiller: Its registered name, or its class.
        options: Its options, such as few steps.
        run: Whether to go through a real run with it, too.

    Raises:
        AssertionError: If it breaks the contract; the message says how.
    """
    options = dict(options or {})
    with _registered(DISTILLERS, distiller) as name, tempfile.TemporaryDirectory() as folder:
        method: Any = _built(DISTILLERS, name, options, Distiller)
        where = f"distiller '{name}'"
        _require(getattr(method, "name", "") == name, f"{where}: its attribute name is not '{name}'")
        _require(isinstance(method.real_pixels, bool), f"{where}: real_pixels must be True or False")
        _require(isinstance(method.protection_gap(), str), f"{where}: protection_gap must return text")
        data = _scenes()
        latents = _latents(data, Path(folder)) if method.requirements.latents else None
        _require(method.fit(data, latents, trainer=_TRAINER) is method, f"{where}: fit does not return self")
        tiles = _check_set(method, data, where, Path(folder))
        _check_redraw(method, tiles, data, where)
        loaded: Any = DISTILLERS.create(name, **options)
        _check_steps(method, loaded.attach(data, latents, trainer=_TRAINER), where, Path(folder))
        if run:
            tiles = _check_run({"distill": {"method": name, "ipc": _IPC, "options": plain(options)}})
            _require(len(tiles) == 3 * _IPC, f"{where}: its set in a run has {len(tiles)} images, not {3 * _IPC}")


def _require(fits: object, message: str) -> None:
    # Not an assert statement: python -O leaves those out.
    if not fits:
        raise AssertionError(message)


@contextmanager
def _registered(registry: Registry[Any], plugin: str | type) -> Iterator[str]:
    """Name of a plug-in; a class that is not registered is, for the time being."""
    if isinstance(plugin, str):
        yield registry.get(plugin).name
        return
    known = [entry.name for entry in registry if entry.factory is plugin]
    if known:
        yield known[0]
        return
    name = getattr(plugin, "name", None)
    _require(isinstance(name, str), f"{plugin.__name__}: it has no attribute name")
    with registry.temporary():
        registry.register(str(name), summary="being checked")(plugin)
        yield str(name)


def _built(registry: Registry[Any], name: str, options: Mapping[str, Any], kind: type) -> object:
    """A plug-in whose constructor did no more than keep its options."""
    where, parsed = f"{registry.kind} '{name}'", registry.parse(name, options)
    plugin = registry.get(name).factory(**parsed)
    _require(isinstance(plugin, kind), f"{where}: it is no {kind.__name__}")
    _require(not hasattr(plugin, "data_"), f"{where}: __init__ works on data; leave that to fit")
    for option, parameter in inspect.signature(registry.get(name).factory).parameters.items():
        _require(hasattr(plugin, option), f"{where}: __init__ does not keep option '{option}' in an attribute")
        given, kept = parsed.get(option, parameter.default), getattr(plugin, option)
        # None stands for a default that is made.
        same = given is None or plain(kept) == plain(given)
        _require(same, f"{where}: __init__ keeps {kept!r} for option '{option}' = {given!r}")
    return plugin


def _scenes(**options: Any) -> SceneData:
    return load_dataset("synthetic", **{"size": _SIZE, "classes": _CLASSES, "chips_per_class": _CHIPS, **options})


def _latents(data: SceneData, folder: Path) -> LatentStore:
    codec = create_codec("kl", data.bands, **_CODEC).fit(data, trainer=_TRAINER)
    return encode(codec, data, folder / "latents.zarr", views=1, progress=False)


def _check_run(groups: Mapping[str, Mapping[str, Any]]) -> DistilledSet:
    """The first set of a run at miniature size with these options."""
    values: dict[str, Any] = {
        "data": {"name": "synthetic", "size": _SIZE},
        "codec": {"name": "kl", "options": plain(_CODEC)},
        "encode": {"views": 1},
        "audit": {"features": "descriptors"},
        "evaluation": {
            "recipe": {"steps": 3, "full_steps": 3, "size": _SIZE}, "seeds": [0], "baselines": [], "full": False
        },
        "export": {"allow_blocked": True},
        "trainer": {"progress": False, "accelerator": "cpu"},
    }  # fmt: skip
    for group, given in groups.items():
        values[group] = {**values.get(group, {}), **given}
    if values["data"]["name"] == "synthetic" and "classes" not in values["data"]:
        values["data"] |= {"classes": list(_CLASSES), "options": {"chips_per_class": _CHIPS}}
    with tempfile.TemporaryDirectory() as folder:
        run = Run(parse_config({"name": "check", "out": folder, **values}))
        run.pipeline.run()
        return run.sets()[0]


def _check_attributes(source: SceneSource) -> None:
    """What is said of a dataset as a whole."""
    _require(isinstance(source, SceneSource), f"dataset: {type(source).__name__} is no SceneSource")
    for attribute in ("name", "licence", "citation", "classes", "bands", "gsd", "labels", "chip_ids"):
        _require(hasattr(source, attribute), f"dataset: {type(source).__name__} has no attribute {attribute}")
    where = f"dataset '{source.name}'"
    for attribute in ("name", "licence", "citation"):
        _require(isinstance(getattr(source, attribute), str), f"{where}: {attribute} must be text")
    _require(isinstance(source.bands, BandSet), f"{where}: bands must be a BandSet")
    _require(source.gsd > 0, f"{where}: gsd is {source.gsd}, not metres above 0")
    proper = bool(source.classes) and all(isinstance(info, ClassInfo) for info in source.classes)
    _require(proper, f"{where}: classes must be a tuple of ClassInfo")
    keys = [info.key for info in source.classes]
    _require(len(set(keys)) == len(keys), f"{where}: two classes have the same key")


def _check_labels(source: SceneSource) -> None:
    """What is said of each chip without reading it."""
    where, count, labels = f"dataset '{source.name}'", len(source), np.asarray(source.labels)
    fine = labels.ndim == 1 and labels.dtype == np.int64
    _require(fine, f"{where}: labels must be int64 (N,), not {labels.dtype} of shape {labels.shape}")
    found, wanted = np.unique(labels).tolist(), list(range(len(source.classes)))
    _require(found == wanted, f"{where}: labels are {found}, but its classes are numbered {wanted}")
    _require(len(source.chip_ids) == count, f"{where}: {len(source.chip_ids)} chip_ids for {count} labels")
    _require(len(set(source.chip_ids)) == count, f"{where}: two chips have the same name in chip_ids")
    groups = np.asarray(source.duplicate_groups())
    _require(groups.shape == (count,), f"{where}: duplicate_groups is of shape {groups.shape}, not ({count},)")


def _check_chip(source: SceneSource, index: int) -> None:
    """One chip: its shape, type and values, and that reading it again gives the same."""
    where, chip = f"dataset '{source.name}', chip {source.chip_ids[index]}", source.read(index)
    wanted = len(source.bands), np.dtype(source.bands.dtype)
    shaped = np.ndim(chip) == 3 and chip.shape[0] == wanted[0]
    _require(shaped, f"{where}: read returns shape {np.shape(chip)}, not (B, H, W) with {wanted[0]} band(s)")
    _require(chip.dtype == wanted[1], f"{where}: read returns {chip.dtype}, but bands.dtype is {wanted[1]}")
    _check_values(chip, source.bands, where)
    before = chip.copy()
    if chip.flags.writeable:
        chip[:] = 0
    _require(np.array_equal(source.read(index), before), f"{where}: reading it twice gives other pixels")


def _check_values(pixels: NDArray[Any], bands: Any, where: str) -> None:
    """Pixels in the sensor's units: finite, and in the valid range or nodata."""
    _require(np.isfinite(pixels).all(), f"{where}: pixels are not finite")
    low, high = bands.valid_range
    fine = (pixels >= low) & (pixels <= high)
    fine |= False if bands.nodata is None else pixels == bands.nodata
    _require(fine.all(), f"{where}: pixels lie beyond bands.valid_range {low:g} to {high:g}")


def _check_choices(name: str, options: Mapping[str, Any], source: SceneSource) -> None:
    """Views at another size, with one band and with some classes."""
    keys = [info.key for info in source.classes[:2]]
    known = type(source).known_classes(options)
    # To a folder of anybody's files the names say which bands they have, not which to take.
    names = list(source.bands.names) if isinstance(source, FolderScenes) else [source.bands.names[-1]]
    told = known is None or {info.key for info in source.classes} <= {info.key for info in known}
    _require(told, f"dataset '{name}': known_classes leaves out classes that it has")
    chosen = {**options, "size": _SIZE, "bands": names, "classes": keys}
    data = load_dataset(name, **chosen)
    shape, wanted = data.train.images(np.arange(1)).shape[1:], (len(names), _SIZE, _SIZE)
    _require(shape == wanted, f"dataset '{name}': a chip at size={_SIZE}, bands={names} is {shape}")
    found = sorted(info.key for info in data.classes)
    _require(found == sorted(keys), f"dataset '{name}': classes={keys} gives {found}")
    views = [set(view.indices.tolist()) for view in (data.train, data.val, data.test)]
    _require(len(set.union(*views)) == sum(map(len, views)), f"dataset '{name}': its views share chips")


def _check_ways(codec: Codec, data: SceneData, where: str) -> None:
    """Chips to latents and back."""
    images = torch.from_numpy(data.train.images(np.arange(6)).astype(np.float32))
    mean, logvar = codec.posterior(images)
    side = images.shape[-1] // codec.factor
    wanted = (6, codec.latent_channels, side, side)
    for part, values in (("means", mean), ("log-variances", logvar)):
        _require(tuple(values.shape) == wanted, f"{where}: {part} are of shape {tuple(values.shape)}, not {wanted}")
        fine = values.dtype == torch.float32 and bool(torch.isfinite(values).all())
        _require(fine, f"{where}: {part} are not finite float32")
    spread = float(mean.std())
    _require(0.1 < spread < 10, f"{where}: latents spread by {spread:.3g}, but are to have about unit variance")
    _require(torch.equal(codec.encode(images), mean), f"{where}: encoding twice gives other latents")
    alone = torch.allclose(codec.encode(images[:1]), mean[:1], atol=1e-3)
    _require(alone, f"{where}: latents of a chip depend on the chips beside it")
    latents = mean.detach().clone().requires_grad_(True)
    decoded = codec.decode(latents)
    shape = tuple(decoded.shape)
    _require(shape == tuple(images.shape), f"{where}: decoded chips are of shape {shape}, not {tuple(images.shape)}")
    fine = decoded.dtype == torch.float32 and bool(torch.isfinite(decoded).all())
    _require(fine, f"{where}: decoded chips are not finite float32")
    if decoded.requires_grad:
        decoded.sum().backward()
    _require(latents.grad is not None, f"{where}: decode gives latents that ask for it no gradient")


def _check_saved_codec(codec: Codec, data: SceneData, where: str) -> None:
    """A codec comes back from its folder, and tells how good it is."""
    images = torch.from_numpy(data.train.images(np.arange(4)).astype(np.float32))
    with tempfile.TemporaryDirectory() as folder:
        saved = codec.save(Path(folder) / "codec")
        pickles = sorted(path.name for path in saved.rglob("*") if path.suffix in _PICKLES)
        _require(not pickles, f"{where}: save writes {pickles}, which may be pickle; write safetensors")
        back = load_codec(saved)
        latents = codec.encode(images)
        same = torch.equal(back.encode(images), latents) and torch.equal(back.decode(latents), codec.decode(latents))
    _require(same, f"{where}: loaded from its folder it encodes or decodes otherwise")
    _require(back.bands == codec.bands, f"{where}: loaded from its folder it has other bands")
    _require(np.isfinite(codec.psnr(data.train)), f"{where}: psnr is not finite")
    vae = type(codec.autoencoder()).__name__
    _require(vae in ("AutoencoderKL", "NoneType"), f"{where}: autoencoder is no AutoencoderKL, nor None")


def _check_set(method: Distiller, data: SceneData, where: str, folder: Path) -> DistilledSet:
    """A set: its images, labels and manifest, and that the seed makes it again."""
    tiles = method.distill(_IPC, seed=0)
    _require(isinstance(tiles, DistilledSet), f"{where}: distill returns no DistilledSet")
    counts = np.bincount(tiles.label, minlength=len(data.classes)).tolist()
    _require(counts == [_IPC] * len(data.classes), f"{where}: ipc={_IPC} gives {counts} images of the classes")
    _check_images(method, tiles, data, where)
    again = method.distill(_IPC, seed=0)
    _require(np.array_equal(again.image, tiles.image), f"{where}: the same seed gives other images")
    _check_manifest(method, tiles, where)
    back = DistilledSet.load(tiles.save(folder / "set.nc"))
    same = np.array_equal(back.image, tiles.image) and np.array_equal(back.label, tiles.label)
    _require(same, f"{where}: its set does not come back equal from a file")
    return tiles


def _check_images(method: Distiller, tiles: DistilledSet, data: SceneData, where: str) -> None:
    """Images of a set: of the dataset's shape, type, values and classes, and no copies unless it says so."""
    shape, kind = tiles.image.shape[1:], tiles.image.dtype
    real = data.train.images()
    _require(shape == real.shape[1:], f"{where}: images are of shape {shape}, the chips of {real.shape[1:]}")
    _require(kind == np.dtype(data.bands.dtype), f"{where}: images are {kind}, but bands.dtype is {data.bands.dtype}")
    _check_values(tiles.image, data.bands, where)
    for name in ("classes", "bands", "gsd"):
        _require(getattr(tiles, name) == getattr(data, name), f"{where}: {name} of the set are not those of the data")
    chips = {chip.tobytes() for chip in real}
    copied = sum(image.tobytes() in chips for image in tiles.image)
    _require(method.real_pixels or not copied, f"{where}: {copied} images are real chips, but real_pixels is False")


def _check_redraw(method: Distiller, tiles: DistilledSet, data: SceneData, where: str) -> None:
    """Further candidates: of the classes asked for, others than those of the set, and the same when asked again."""
    positions = np.array([len(tiles) - 1, 0], np.int64)
    fresh, again = (method.redraw(_IPC, 0, positions, 1) for _ in range(2))
    wanted = tiles.label[positions].tolist()
    _require(fresh.label.tolist() == wanted, f"{where}: redraw gives labels {fresh.label.tolist()}, not {wanted}")
    _check_images(method, fresh, data, f"{where}, redraw")
    _require(np.array_equal(again.image, fresh.image), f"{where}: redraw gives other images when asked again")
    new = [not np.array_equal(*pair) for pair in zip(fresh.image, tiles.image[positions], strict=True)]
    _require(all(new), f"{where}: redraw gives images that the set holds already")


def _check_steps(method: Distiller, loaded: Distiller, where: str, folder: Path) -> None:
    """What the steps save makes the same images once it is loaded into a method that was not fitted."""
    fitted = {step.name for step in method.steps()}
    steps = method.steps(_IPC, [0])
    _require(len({step.name for step in steps}) == len(steps), f"{where}: two steps have the same name")
    for step, other in zip(steps, loaded.steps(_IPC, [0]), strict=True):
        work, saved = folder / f"{step.name}.work", folder / step.name
        work.mkdir()
        saved.mkdir()
        if step.name not in fitted:
            step.fit(work)
        step.save(saved)
        other.load(saved)
    same = np.array_equal(loaded.distill(_IPC, seed=0).image, method.distill(_IPC, seed=0).image)
    _require(same, f"{where}: loaded from what its steps saved it makes other images")


def _check_manifest(method: Distiller, tiles: DistilledSet, where: str) -> None:
    """What a set says of its making."""
    manifest = tiles.manifest
    missing = [attribute for attribute in _MANIFEST if attribute not in manifest]
    _require(not missing, f"{where}: the manifest lacks {', '.join(missing)}; take it from self.manifest(ipc, seed)")
    told = manifest["ipc"], manifest["seed"]
    _require(told == (_IPC, 0), f"{where}: the manifest says ipc and seed {told}, asked for were {(_IPC, 0)}")
    real = manifest["digital_source_type"] == REAL
    _require(real == method.real_pixels, f"{where}: the manifest's digital_source_type contradicts real_pixels")
    try:
        json.dumps(manifest)
    except TypeError as error:
        raise AssertionError(f"{where}: the manifest holds more than plain JSON types ({error})") from error
