package app

import (
	"path/filepath"

	"carom/sender/cold"
	"carom/sender/route"
	"carom/sender/smtpd"
)

// openCold opens the counters of cold-virtual-mta, if any virtual MTA has one.
func (n *node) openCold(dir string) error {
	for _, m := range n.config.Load().VMTAs() {
		if len(m.ColdVMTAs) == 0 {
			continue
		}
		store, err := cold.Open(filepath.Join(dir, "cold"), n.logger)
		if err != nil {
			return err
		}
		n.cold = store
		n.opened(store.Close)
		return nil
	}
	return nil
}

// coldVMTA returns the virtual MTA for a new message to a queue's domain that was meant for warm: a
// cold one of warm's, as long as that has not had its quota of the day. It is called once for each
// message and queue, when the message comes in, and may wait for the disk.
func (n *node) coldVMTA(warm, domain string) string {
	if n.cold == nil {
		return warm
	}
	m, ok := n.config.Load().VMTA(warm)
	if !ok || len(m.ColdVMTAs) == 0 {
		return warm
	}
	quotas := n.config.Load().Domain(domain, warm).MaxColdVirtualMTAMsg
	chosen := n.cold.Choose(m.Name, domain, m.ColdVMTAs, func(_ string, day int) int { return quotas.Day(day) })
	if c, ok := n.config.Load().VMTA(chosen); ok && chosen != m.Name {
		return c.Name // as it was first written
	}
	return warm
}

// chooseVMTA is coldVMTA for a whole message, which has one virtual MTA. One to several domains, each
// with a quota of its own, stays warm.
func (n *node) chooseVMTA(warm string, recipients []smtpd.Recipient) string {
	domain := route.Domain(recipients[0].Address)
	for _, r := range recipients[1:] {
		if route.Domain(r.Address) != domain {
			return warm
		}
	}
	return n.coldVMTA(warm, domain)
}
