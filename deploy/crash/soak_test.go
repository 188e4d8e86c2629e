package crash

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"carom/deploy/rig"
)

const (
	sampleEvery = 5 * time.Second
	// Memory may grow by so much from the first third of the run after the warm-up to the last one, by
	// medians: a garbage collector breathes, and a leak of 1 KB a message is 60 MB in ten minutes.
	growthFactor = 1.25
	growthBytes  = 16 << 20
	// What the node may have more when it rests than when it was new: caches that are made on use.
	moreFiles      = 4
	moreGoroutines = 10
)

// TestSoak is make soak: steady load with refusals, hang-ups, slow peers and feeders that vanish, for
// SOAK_MINUTES. It fails on memory that grows, and on files and goroutines that are left when all is
// delivered.
func TestSoak(t *testing.T) {
	minutes := number(t, "SOAK_MINUTES", 0)
	if minutes == 0 {
		t.Skip("SOAK_MINUTES is not set: make soak takes its time")
	}
	c := newCrash(t, 1, 30*time.Millisecond)
	if err := c.node.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	fresh := c.usage(t)
	goroutines, err := c.node.Dump(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("a node without work: %d MB resident, %d goroutines, %d files", fresh.Resident>>20, goroutines, fresh.Files)
	if err := c.node.Run(t.Context()); err != nil {
		t.Fatal(err)
	}

	stop := c.feed(t)
	stopVanishing := c.vanish(t)
	var resident []int64
	tick := time.NewTicker(sampleEvery)
	defer tick.Stop()
	began := time.Now()
	length := time.Duration(minutes) * time.Minute //nolint:gosec // some minutes
	for time.Since(began) < length {
		<-tick.C
		u := c.usage(t)
		resident = append(resident, u.Resident)
		counts := c.audit.Counts()
		t.Logf("%5s: %3d MB resident, %2d threads, %3d files, %6d messages accepted, %6d recipients arrived",
			time.Since(began).Round(time.Second), u.Resident>>20, u.Threads, u.Files, counts.Messages, counts.Arrived)
	}
	stopVanishing()
	stop()
	c.checkGrowth(t, resident)
	c.checkRest(t, fresh, goroutines)
	t.Log(summary(c.audit.Counts(), began))
}

func (c *crash) usage(t *testing.T) rig.Usage {
	t.Helper()
	u, err := c.node.Usage()
	if err != nil {
		t.Fatal(errors.Join(err, c.node.Ended(t.Context())))
	}
	return u
}

// checkGrowth compares the first third of the samples with the last one; the first fifth is the
// warm-up.
func (c *crash) checkGrowth(t *testing.T, resident []int64) {
	t.Helper()
	steady := resident[len(resident)/5:]
	if len(steady) < 9 {
		t.Fatalf("%d samples are too few to say anything", len(resident))
	}
	third := len(steady) / 3
	first, last := median(steady[:third]), median(steady[len(steady)-third:])
	t.Logf("resident after the warm-up %d MB, at the end %d MB", first>>20, last>>20)
	if most := int64(float64(first)*growthFactor) + growthBytes; last > most {
		t.Errorf("memory grew from %d to %d MB; want at most %d", first>>20, last>>20, most>>20)
	}
}

func median(list []int64) int64 {
	sorted := slices.Sorted(slices.Values(list))
	return sorted[len(sorted)/2]
}

// checkRest lets the node finish everything and wants it to hold no more than it did when it was new.
func (c *crash) checkRest(t *testing.T, fresh rig.Usage, goroutines int) {
	t.Helper()
	if err := c.node.Empty(t.Context(), time.Minute); err != nil {
		t.Fatal(err)
	}
	rig.Await(t, time.Minute, "the node to close what it does not need", func(context.Context) error {
		u, err := c.node.Usage()
		if err == nil && u.Files > fresh.Files+moreFiles {
			err = fmt.Errorf("it has %d files open, %d when it was new", u.Files, fresh.Files)
		}
		return err
	})
	left, err := c.node.Dump(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("at rest %d goroutines, %d when it was new", left, goroutines)
	if left > goroutines+moreGoroutines {
		t.Errorf("%d goroutines are left, %d were there at first:\n%s", left, goroutines, c.node.Log())
	}
	// What the dump has cut off is on disk: the event log is read whole after one more life.
	c.drain(t)
}

// vanish hangs up in the middle of messages now and then, until stop is called.
func (c *crash) vanish(t *testing.T) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	var wait sync.WaitGroup
	wait.Go(func() {
		for ctx.Err() == nil {
			if err := c.half(ctx); err != nil && !errors.Is(err, context.Canceled) {
				t.Errorf("a feeder that vanishes: %v", err)
				return
			}
			pause(ctx, 200*time.Millisecond)
		}
	})
	stop = func() {
		cancel()
		wait.Wait()
	}
	t.Cleanup(stop)
	return stop
}

// half sends half a message.
func (c *crash) half(ctx context.Context) error {
	f, err := rig.Dial(ctx, c.node.SMTP)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	m := c.message()
	if err := f.Begin("from@rig.test", m.Recipients); err != nil {
		return err
	}
	c.audit.Offered(m)
	content := bytes.ReplaceAll(m.Content(), []byte("\r\n."), []byte("\r\n.."))
	_, err = f.Conn.Write(content[:len(content)/2])
	c.audit.Refused(m.Number) // it must not come
	return err
}
