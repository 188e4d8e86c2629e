package deliver

import (
	"strings"
	"time"

	"carom/schemas/limits"
	"carom/sender/config"
	"carom/sender/queue"
	"carom/sender/throttle"
)

// overflowTime is how much mail of a virtual MTA that is warmed up waits for the control loop: what it
// allows in this time. The rest goes by the warm virtual MTA, as what is over max-cold-virtual-mta-msg
// does when it comes in.
const overflowTime = 5 * time.Minute

// warmVMTAs returns the warm virtual MTA of each cold one (cold-virtual-mta), by name in lower case.
func warmVMTAs(c *config.Config) map[string]string {
	warm := map[string]string{}
	for _, m := range c.VMTAs() {
		for _, name := range m.ColdVMTAs {
			warm[strings.ToLower(name)] = m.Name
		}
	}
	return warm
}

// overflow moves what a cold virtual MTA cannot send soon to its warm one, after the limit of the control
// loop has held mail back. Other limits, and those of addresses that are not warmed up, move nothing.
func (s *session) overflow(d throttle.Denial) {
	to := s.way.view.warm[strings.ToLower(s.way.vmta.Name)]
	if to == "" || d.Scope != string(limits.ByLoop) || s.Requeue == nil {
		return
	}
	soon := 0
	if d.Wait > 0 {
		soon = int(overflowTime / d.Wait)
	}
	for surplus := s.queue.Recipients() - max(1, soon); surplus > 0; {
		item, ok := s.queue.NextAny()
		if !ok {
			return
		}
		surplus -= len(item.Recipients)
		s.Requeue(queue.Name{Domain: s.queue.Name().Domain, VMTA: to}, item)
	}
}
