# All of transformers as Any. Its own types are thousands of files, which take longer to read than the pack to check.
from typing import Any

def __getattr__(name: str) -> Any: ...
