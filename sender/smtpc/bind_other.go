//go:build !linux

package smtpc

import "syscall"

// bindLate does nothing: the option is Linux's.
func bindLate(_, _ string, _ syscall.RawConn) error { return nil }
