"""The one error of this package that is the model's fault, not ours."""


class ModelRefusedError(ValueError):
    """The model's files are broken, or ask for what is not built; the message names file, field and value."""
