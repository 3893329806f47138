"""Fields of configurations by their dotted names."""

from lsst.pex.config import ConfigurableInstance


def _holder(config, name):
    *parts, last = name.split(".")
    for part in parts:
        config = getattr(config, part)
    return config, last


def get(config, name):
    """The plain value of a field."""
    holder, last = _holder(config, name)
    holder = holder.value if isinstance(holder, ConfigurableInstance) else holder
    field = holder._fields.get(last)
    return getattr(holder, last) if field is None else field.toDict(holder)


def put(config, names):
    """`config`, with fields set; for chaining."""
    for name, value in names.items():
        holder, last = _holder(config, name)
        setattr(holder, last, value)
    return config
