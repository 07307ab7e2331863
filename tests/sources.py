"""sources.py - the source files of this tree, for the checks that read them."""
import os
import subprocess

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def all_files():
    """Paths from the root: what git tracks or would, or in a tarball everything but build*."""
    try:
        out = subprocess.run(['git', '-C', ROOT, 'ls-files', '-co', '--exclude-standard', '-z'],
                             capture_output=True, check=True).stdout.decode()
        names = [n for n in out.split('\0') if n]
    except (OSError, subprocess.CalledProcessError):
        names = []
        for top, dirs, files in os.walk(ROOT):
            dirs[:] = [d for d in dirs if not d.startswith(('build', '.'))]
            names += [os.path.relpath(os.path.join(top, f), ROOT) for f in files]
    return sorted(n for n in set(names) if os.path.isfile(os.path.join(ROOT, n)))


def sources(endings):
    """Those whose name ends with one of @endings."""
    return [n for n in all_files() if n.endswith(endings)]


def scripts():
    """Those that begin with #!."""
    found = []
    for name in all_files():
        with open(os.path.join(ROOT, name), 'rb') as f:
            if f.read(2) == b'#!':
                found.append(name)
    return found
