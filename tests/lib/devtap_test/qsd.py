"""qemu-storage-daemon as a vhost-user-blk back end: somebody else's, to test the tests with."""

from .process import Process, free_socket_path


class StorageDaemon(Process):
    """Exports a raw file on .socket; ends with the `with` block. locking=False: others may have the image, too."""

    def __init__(self, image, folder, queues=1, writable=True, locking=True):
        self.socket = free_socket_path(folder, "qsd.sock")
        super().__init__(
            ["qemu-storage-daemon",
             "--blockdev", f"driver=file,node-name=file,filename={image},discard=unmap,"
             f"locking={'auto' if locking else 'off'}",
             "--export", f"type=vhost-user-blk,id=e,node-name=file,addr.type=unix,"
             f"addr.path={self.socket},num-queues={queues},"
             f"writable={'on' if writable else 'off'}"],
            folder, ready_socket=self.socket)
