package supervise

import "syscall"

// processAttributes gives a child its own process group, and death with its parent. SIGKILL,
// because a successor of the supervisor wants the locks and ports at once and everything here is
// made to be killed.
func processAttributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}
