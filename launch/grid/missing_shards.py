"""What a grid needs before its first cell: the shards, in their place and as asked for."""

from maskrestore.config.data import PLACES, DataConfig, SourceConfig
from maskrestore.data.manifest import MANIFEST, read_manifest
from maskrestore.utils.errors import ConfigError


def has_shards(data: DataConfig) -> bool:
    """Whether data.shards is finished."""
    return (data.shards / MANIFEST).is_file()


def check_source(data: DataConfig) -> None:
    """ConfigError if the shards are others than the settings say, or are missing and cannot be
    written for want of the raw data; UserError if their manifest is damaged or cannot be fetched.
    """
    if data.url:
        from maskrestore.data.fetch import fetch_manifest

        fetch_manifest(data)
    if has_shards(data):
        written = read_manifest(data.shards)["settings"]
        settings = data.model_dump(mode="json", include=set(SourceConfig.model_fields) - PLACES)
        differing = [
            f"  data.{name}: {written[name]} there, {value} asked for"
            for name, value in settings.items()
            if name in written and written[name] != value
        ]
        if differing:
            lines = "\n".join(differing)
            raise ConfigError(
                f"the shards in {data.shards} were written with other settings:\n{lines}\n"
                "give these, or another folder as data.shards=DIR"
            )
        return
    needed = {"streetscenes": (), "folder": ("images", "masks")}.get(data.source, ("root",))
    missing = [f"data.{name}=FOLDER" for name in needed if getattr(data, name) is None]
    if missing:
        raise ConfigError(
            f"data.shards={data.shards}: no finished shards there, and nothing to write them from: "
            f"give {' and '.join(missing)} of {data.source}, or the folder of finished shards"
        )


def write_missing_shards(data: DataConfig) -> None:
    """Write data.shards unless they are there, whole."""
    if has_shards(data):
        return
    from shards.write import WriteConfig, write_shards

    source = {name: getattr(data, name) for name in SourceConfig.model_fields}
    write_shards(WriteConfig(**source, out=data.shards))
