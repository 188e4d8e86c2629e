package spool

import (
	"log/slog"
	"sync/atomic"
	"syscall"
	"time"
)

// spaceEvery is how long one look at the free space is good for. In between, what Put takes is counted.
const spaceEvery = 250 * time.Millisecond

// space says how much messages may take. The zero value says: any.
type space struct {
	min    int64 // bytes that stay free
	free   func() (int64, error)
	logger *slog.Logger
	began  time.Time

	next  atomic.Int64 // when to look again, nanoseconds since began
	left  atomic.Int64 // bytes over min
	blind atomic.Bool  // free failed, and it was logged

	refused atomic.Bool // somebody wanted space that was not there, and none was made since
}

// Room returns ErrNoSpace if Put would refuse a message of so many bytes now, so that it need not be
// sent first.
func (s *Spool) Room(bytes int64) error {
	if s.opt.DeliverOnly {
		return ErrDeliverOnly
	}
	if s.space.look() && s.space.left.Load() < bytes {
		s.space.refused.Store(true)
		return ErrNoSpace
	}
	return nil
}

// take counts bytes, and returns false if they are too many.
func (p *space) take(bytes int64) bool {
	if !p.look() || p.left.Add(-bytes) >= 0 {
		return true
	}
	p.left.Add(bytes)
	p.refused.Store(true)
	return false
}

// scarce returns whether space should be made.
func (p *space) scarce() bool {
	return p.refused.Load() || p.look() && p.left.Load() <= 0
}

// look asks for the free space when it is time to, and returns whether there is a bound. If nobody
// can say what is free, there is none: a full disk still refuses what is written to it.
func (p *space) look() bool {
	if p.min <= 0 {
		return false
	}
	now, next := int64(time.Since(p.began)), p.next.Load()
	if now >= next && p.next.CompareAndSwap(next, now+int64(spaceEvery)) {
		free, err := p.free()
		if p.blind.Swap(err != nil) != (err != nil) && err != nil {
			p.logger.Error("free disk space is unknown", "error", err)
		}
		p.left.Store(free - p.min)
	}
	return !p.blind.Load()
}

// freeBytes returns what is free on the disk of dir for those who are not root.
func freeBytes(dir string) (int64, error) {
	var st syscall.Statfs_t
	if err := syscall.Statfs(dir, &st); err != nil {
		return 0, err
	}
	return int64(st.Bavail) * int64(st.Bsize), nil //nolint:unconvert // not int64 everywhere
}
