package config

import (
	"slices"
	"strings"
)

// HoldExempt says that the control loop must not hold mail, whatever recipients say of it: password
// resets, invoices (design/control.md 5.5, rule 7). It is written the other way round, as adaptive-hold.
type HoldExempt bool

// String returns the value of adaptive-hold.
func (e HoldExempt) String() string {
	if e {
		return "no"
	}
	return "yes"
}

// adaptiveHold parses adaptive-hold.
var adaptiveHold = scalar("want yes or no", func(s string) (HoldExempt, error) {
	holds, err := parseBoolean(s)
	return HoldExempt(err == nil && !holds), err
})

// HoldExempt reports whether mail of a virtual MTA, an SMTP user or a job is never held by the control
// loop.
func (c *Config) HoldExempt(vmta *VMTA, user, job string) bool {
	if vmta.HoldExempt {
		return true
	}
	if u, ok := c.User(user); ok && bool(u.HoldExempt) {
		return true
	}
	return job != "" && slices.ContainsFunc(c.HoldExemptJobs, func(name string) bool { return strings.EqualFold(name, job) })
}
