"""The research on Storyworld: how its models are trained, and how they are measured. See `__main__` for the commands.

The repository must be on sys.path, behind the host's folder, which has modules of the same names.
"""

from pathlib import Path

from tools import pack

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = ROOT / "models" / "storyworld"
CLASSIFIERS = Path(__file__).parent / "evaluate"  # folder of the classifiers' weights
DATA = ROOT / ".cache" / "storyworld" / "data"

pack.load_pack()
