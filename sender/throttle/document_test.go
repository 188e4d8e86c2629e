package throttle

import (
	"testing"
	"testing/synctest"
	"time"

	"carom/schemas/event"
	"carom/schemas/limits"
)

// gaugeOf returns the only gauge.
func gaugeOf(t *testing.T, th *Throttle) event.Gauge {
	t.Helper()
	gauges := th.Gauges(func(string) int { return 0 })
	if len(gauges) != 1 {
		t.Fatalf("%d gauges, want 1", len(gauges))
	}
	return gauges[0]
}

func TestDocumentTakesEffect(t *testing.T) {
	off := func(provider string) *limits.Document {
		d := document(2, lease(1, 10))
		d.Modes = []limits.ProviderMode{{Provider: provider, Mode: limits.Off}}
		return d
	}
	ended := lease(2, 10)
	for _, tc := range []struct {
		name string
		next func() *limits.Document
		rate float64 // in force after it
	}{
		{"off returns to the configuration at once", func() *limits.Document { return off(key.Provider) }, 100},
		{"the kill switch too", func() *limits.Document { return off(limits.EveryProvider) }, 100},
		{"off elsewhere changes nothing", func() *limits.Document { return off("yahoo") }, 10},
		{"a smaller epoch changes nothing", func() *limits.Document { return document(2, lease(1, 50)) }, 10},
		{"the same epoch is split anew", func() *limits.Document { return document(2, lease(5, 7)) }, 7},
		{"a lease that is no longer there", func() *limits.Document { return document(2) }, 100},
		{"a lease that ended before it came", func() *limits.Document {
			ended.Epoch, ended.NotAfter = 9, time.Now().Add(-time.Hour)
			return document(2, ended)
		}, 100},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				th, p := New(0), path("a/v", 100)
				connect(th, p)
				th.Apply(document(1, lease(5, 10)))
				th.Apply(tc.next())
				if got := gaugeOf(t, th).EffectiveRate; got != tc.rate {
					t.Errorf("%v messages a second in force, want %v", got, tc.rate)
				}
			})
		})
	}
}

// What a node may use is bounded by the lease's end, whenever it saw the document first.
func TestNotAfterEndsALeaseBeforeItsTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		th, p := New(0), path("a/v", 100)
		connect(th, p)
		l := lease(1, 10)
		l.NotAfter = time.Now().Add(time.Minute)
		th.Apply(document(1, l))
		time.Sleep(time.Minute)
		if got := gaugeOf(t, th).EffectiveRate; got != 10 {
			t.Errorf("%v messages a second while the lease is fresh, want 10", got)
		}
		time.Sleep(limits.GlideTime)
		if got := gaugeOf(t, th).EffectiveRate; got != 100 {
			t.Errorf("%v messages a second after the glide, want 100", got)
		}
	})
}

// After a restart nothing was sent for a key yet; who splits limits must see that the node is there,
// and must not take what is configured for unlimited.
func TestLeasedKeyHasAGaugeBeforeItsFirstMessage(t *testing.T) {
	th := New(0)
	th.Apply(document(1, lease(3, 2)))
	g := gaugeOf(t, th)
	if g.LeaseEpoch != 3 || g.LeaseRate != 2 || g.StaticRate != 2 || g.StaticConnections != 10 {
		t.Errorf("gauge %+v, want epoch 3, lease and static rate 2, 10 connections", g)
	}
}

func TestGaugeSaysWhoHasAuthorityOverBackoff(t *testing.T) {
	th, p := New(0), path("a/v", 100)
	connect(th, p)
	if gaugeOf(t, th).BackoffByConfig {
		t.Error("the configuration has authority over backoff, want the loop")
	}
	q := path("b/v", 100)
	q.Queued.BackoffByConfig = true
	connect(th, q)
	if !gaugeOf(t, th).BackoffByConfig {
		t.Error("the loop has authority over backoff although a queue of the key says config")
	}
}

// The loop must not take what backoff mode allows for all that it may use: backoff mode ends with its word.
func TestGaugeInBackoffModeSaysWhatTheLoopMayUse(t *testing.T) {
	th, p := New(0), path("a/v", 100)
	normal := *p.Queued
	p.Queued = &QueueLimits{Rate: Rate{5, time.Second}, Connections: 1, Backoff: true, Normal: &normal}
	connect(th, p)
	if g := gaugeOf(t, th); g.StaticRate != 100 || g.EffectiveRate != 5 {
		t.Errorf("the gauge says %v messages a second are configured and %v in force, want 100 and 5", g.StaticRate, g.EffectiveRate)
	}
}

func TestCanaryTenant(t *testing.T) {
	th := New(0)
	l := lease(3, 2)
	d := document(1, l)
	d.Canaries = []limits.CanaryTenant{{Provider: key.Provider, Source: key.Source, Tenant: "shop"}}
	th.Apply(d)
	if got := th.CanaryTenant(key); got != "" {
		t.Errorf("a key that is not suspended is tried with mail of %q, want anybody's", got)
	}
	d.Leases[0].Epoch, d.Leases[0].Canary = 4, true
	th.Apply(d)
	if got := th.CanaryTenant(key); got != "shop" {
		t.Errorf("the key is tried with mail of %q, want shop", got)
	}
}

// The loop has the say over backoff mode where it is active, also before its first lease; not when its
// news grow old, and not where it only advises.
func TestWhoHasTheSay(t *testing.T) {
	active := []limits.ProviderMode{{Provider: key.Provider, Mode: limits.Active}}
	for _, tc := range []struct {
		name     string
		document *limits.Document
		after    time.Duration
		want     bool
	}{
		{"no document", nil, 0, false},
		{"a lease", document(1, lease(1, 10)), 0, true},
		{"a lease that is old", document(1, lease(1, 10)), 11 * time.Minute, false},
		{"active without a lease", &limits.Document{TTLSeconds: 600, Modes: active}, 0, true},
		{"the same, old", &limits.Document{TTLSeconds: 600, Modes: active}, 11 * time.Minute, false},
		{"nobody says", document(1), 0, false},
		{"advice", &limits.Document{TTLSeconds: 600, Modes: []limits.ProviderMode{{Provider: key.Provider, Mode: limits.Advise}}}, 0, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				th, p := New(0), path("a/v", 100)
				if tc.document != nil {
					th.Apply(tc.document)
				}
				time.Sleep(tc.after)
				permit, err := acquire(t.Context(), th, p, 1)
				if err != nil || permit.Loop != tc.want {
					t.Errorf("the loop has the say: %t (%v), want %t", permit.Loop, err, tc.want)
				}
			})
		})
	}
}
