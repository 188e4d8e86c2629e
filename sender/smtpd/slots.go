package smtpd

import (
	"strings"
	"sync"
	"time"

	"carom/sender/config"
)

// slots are the connections that may be open at once: total-max-smtp-in, less what groups reserve
// for themselves, and max-smtp-in of a group.
type slots struct {
	total int // 0 means no limit

	mu      sync.Mutex
	used    int
	groups  map[string]*slotGroup // by name in lower case
	waiting int
	freed   chan struct{} // closed when one becomes free
}

type slotGroup struct{ most, reserved, used int }

func newSlots(c *config.Config) *slots {
	s := &slots{total: c.TotalMaxSMTPIn, groups: map[string]*slotGroup{}, freed: make(chan struct{})}
	for _, g := range c.SourceGroups() {
		s.groups[strings.ToLower(g.Name)] = &slotGroup{most: g.MaxSMTPIn, reserved: g.ReservedSMTPIn}
	}
	return s
}

// take takes a connection for the group ("" for none). It reports false where there is none.
func (s *slots) take(group string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	own := s.groups[strings.ToLower(group)]
	if own != nil && own.most > 0 && own.used >= own.most {
		return false
	}
	if s.total > 0 && (own == nil || own.used >= own.reserved) {
		kept := 0 // for others
		for _, g := range s.groups {
			kept += max(g.reserved-g.used, 0)
		}
		if s.used+kept >= s.total {
			return false
		}
	}
	s.used++
	if own != nil {
		own.used++
	}
	return true
}

// giveBack gives a connection back.
func (s *slots) giveBack(group string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.used--
	if own := s.groups[strings.ToLower(group)]; own != nil {
		own.used--
	}
	if s.waiting > 0 {
		close(s.freed)
		s.freed = make(chan struct{})
	}
}

// await is take for those who wait, at most as many as may be open, and at most until the timeout
// or until stopped is closed.
func (s *slots) await(group string, timeout time.Duration, stopped <-chan struct{}) bool {
	s.mu.Lock()
	if s.total > 0 && s.waiting >= s.total {
		s.mu.Unlock()
		return false
	}
	s.waiting++
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		s.waiting--
		s.mu.Unlock()
	}()
	timer := time.NewTimer(timeout)
	defer timer.Stop()
	for {
		s.mu.Lock()
		freed := s.freed
		s.mu.Unlock()
		if s.take(group) {
			return true
		}
		select {
		case <-freed:
		case <-timer.C:
			return false
		case <-stopped:
			return false
		}
	}
}
