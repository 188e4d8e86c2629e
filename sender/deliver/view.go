package deliver

import (
	"log/slog"
	"slices"
	"strings"

	"carom/sender/backoff"
	"carom/sender/config"
	"carom/sender/throttle"
)

// view is what an agent made of one configuration. A reload replaces it as a whole; a queue sees the
// new one when it is asked for its policy next, a session before its next message.
type view struct {
	config  *config.Config
	vmtas   map[string]*exit         // by the name of the virtual MTA
	lists   map[string]*backoff.List // by name in lower case; guarded by the agent's mu
	signing *signing
	warm    map[string]string // see warmVMTAs
}

func newView(c *config.Config, logger *slog.Logger) (*view, error) {
	v := &view{config: c, vmtas: map[string]*exit{}, lists: map[string]*backoff.List{}, warm: warmVMTAs(c)}
	var err error
	if v.signing, err = newSigning(c, logger); err != nil {
		return nil, err
	}
	for _, vmta := range c.VMTAs() {
		list, err := sources(vmta)
		if err != nil {
			return nil, err
		}
		for _, addr := range missing(list) {
			logger.Warn("source address is not on this machine", "vmta", vmta.Name, "source", addr.String())
		}
		v.vmtas[vmta.Name] = &exit{vmta: vmta, sources: list, caps: limitsOfVMTA(c, vmta)}
	}
	return v, nil
}

// Prepare makes ready for another configuration, and returns what puts it in force. Queued mail keeps
// its time of expiry and of its next attempt, queues keep their modes; connections go on where the new
// configuration leaves them as they are, and end with the message in hand where it does not.
func (a *Agent) Prepare(c *config.Config) (put func(), err error) {
	v, err := newView(c, a.Logger)
	if err != nil {
		return nil, err
	}
	return func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		a.view.Store(v)
		clear(a.plans)
	}, nil
}

// list returns the compiled smtp-pattern-list of that name, nil for none.
func (a *Agent) list(v *view, name string) *backoff.List {
	written, ok := v.config.PatternList(name)
	if !ok {
		return nil
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	key := strings.ToLower(name)
	if v.lists[key] == nil {
		v.lists[key] = backoff.NewList(rules(written))
	}
	return v.lists[key]
}

// current brings the session to the configuration in force. It reports false if that asks for
// another connection, or does not have the queue any more: then the session is to end.
func (s *session) current() bool {
	if s.way.view == s.view.Load() {
		return true
	}
	w, err := s.Agent.way(s.queue)
	if err != nil || (s.conn != nil || s.slot) && !s.fits(w) {
		return false
	}
	s.way = w
	if s.conn != nil || s.slot {
		s.path.VMTALimits, s.path.Queued = w.caps, w.limits[w.modeNow(s.queue)]
	}
	return true
}

// fits reports whether the session's connection is one that w would open, and counts against the same
// limits: what was taken from the throttle is given back under the path that it is given back with.
func (s *session) fits(w *way) bool {
	old := s.way
	return w.transport == old.transport && w.settings.Type == old.settings.Type &&
		w.settings.SMTPHosts.String() == old.settings.SMTPHosts.String() && w.settings.DefaultSMTPPort == old.settings.DefaultSMTPPort &&
		w.settings.Provider == old.settings.Provider && w.settings.DisableMXRollup == old.settings.DisableMXRollup &&
		w.rollup == nil && old.rollup == nil &&
		len(w.limits[0].SourceIP) == 0 && len(old.limits[0].SourceIP) == 0 &&
		slices.Equal(w.sources, old.sources) && w.vmta.HostName == old.vmta.HostName &&
		slices.Equal(poolNames(w.caps), poolNames(old.caps))
}

func poolNames(l *throttle.VMTALimits) []string {
	names := make([]string, len(l.Pools))
	for i, p := range l.Pools {
		names[i] = p.Name
	}
	return names
}
