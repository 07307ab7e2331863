"""A pool from its making to a guest on a clone, with a snapshot and verified data."""

import json

from devtap_test.load import file_system, fio_verify, kernel_errors
from devtap_test.pool import cvd

def template(t):
    """A pool with a labelled snapshot of a small image."""
    pool, image = t.folder / "pool", t.folder / "image"
    with open(image, "wb") as f:
        f.write(b"begin" * 1000)
        f.seek(20 << 20)
        f.write(b"end" * 1000)
    cvd("pool", "create", pool, "--size", "1G")
    cvd("create", f"{pool}/base", "--size", "256M")
    cvd("fill", f"{pool}/base", image)
    cvd("snap", f"{pool}/base", "--name", "v1")
    cvd("label", f"{pool}/base@v1")
    return pool, image


def test_program(t):
    """The commands, their output as JSON, and their exit statuses."""
    pool, image = template(t)
    cvd("dup", f"{pool}/base@v1", "vm", "--count", 4)
    names = [d["name"] for d in json.loads(cvd("list", pool, "--json"))]
    t.equal(len(names), 5)
    cvd("export", f"{pool}/vm3", t.folder / "copy")
    content = (t.folder / "copy").read_bytes()
    t.equal(content[:image.stat().st_size], image.read_bytes())
    assert not any(content[image.stat().st_size:]), "what was not in the image is not zero"
    assert "vm1" in cvd("unlabel", f"{pool}/base@v1", status=4), "it does not name a clone"
    cvd("delete", f"{pool}/base@v1", status=4)
    cvd("create", f"{pool}/vm3", "--size", "1M", status=1)
    cvd("snaps", f"{pool}/nobody", status=3)
    cvd("create", pool, status=2)
    for name in names[1:]:
        cvd("delete", f"{pool}/{name}")
    cvd("unlabel", f"{pool}/base@v1")
    cvd("delete", f"{pool}/base")
    t.equal(json.loads(cvd("list", pool, "--json")), [])
    found = json.loads(cvd("pool", "check", pool, "--data", "--json"))
    t.equal((found["findings"], found["blocks"]), ([], 0))


def test_guest(t):
    """A guest works on a clone and a snapshot is taken meanwhile; then the pool is whole."""
    pool, _ = template(t)
    cvd("dup", f"{pool}/base@v1", "vm1")
    disk = t.soft_disk(f"cvd-local pool={pool} name=vm1")
    guest = t.guest([disk.socket], smp=2)
    t.equal(guest.check("head -c 5 /dev/vda"), "begin")
    cvd("delete", f"{pool}/vm1", status=4)
    file_system(guest, "ext4")
    disk.devtap("do", disk.address, "cvd-local", "snapshot", "one")
    fio_verify(guest, size="24m")
    t.equal(kernel_errors(guest), "")
    names = [s["name"] for s in json.loads(cvd("snaps", f"{pool}/vm1", "--json"))]
    assert "one" in names, f"{names}"
    guest.power_off()
    disk.stop()
    t.equal(json.loads(cvd("pool", "check", pool, "--data", "--json"))["findings"], [])
    cvd("collapse", f"{pool}/vm1@one", "@one", status=2)
    cvd("delete", f"{pool}/vm1@one")
    t.equal(json.loads(cvd("pool", "check", pool, "--json"))["findings"], [])
