"""What is not the book: verified files, offline tokenizer, device, profile, running notebooks.

A notebook's or script's first lines are `import companion; companion.setup()`. No chapter's code
lives here, and nothing here imports a chapter.
"""

from companion.assets import AssetError, asset
from companion.session import device, has_widgets, profile, progress, setup
from companion.tokenizer import prepare_tokenizer, tokenizer_files

__all__ = [
    "AssetError",
    "asset",
    "device",
    "has_widgets",
    "prepare_tokenizer",
    "profile",
    "progress",
    "setup",
    "tokenizer_files",
]
