//go:build unix && !linux

package supervise

import "syscall"

// processAttributes gives a child its own process group. Only Linux lets it die with its parent.
func processAttributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true}
}
