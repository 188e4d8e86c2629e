package smtpc

import (
	"syscall"

	"golang.org/x/sys/unix"
)

// bindLate makes bind choose the source address alone and leaves the port to connect
// (IP_BIND_ADDRESS_NO_PORT, ip(7)): ports then need to be unique only per destination, not per
// source address, and a busy source does not run out of them.
// Where the system does not know the option, that advantage is lost and nothing else.
func bindLate(_, _ string, conn syscall.RawConn) error {
	return conn.Control(func(fd uintptr) {
		_ = unix.SetsockoptInt(int(fd), unix.SOL_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1)
	})
}
