package leases_test

import (
	"fmt"
	"testing"
	"time"

	"pgregory.net/rapid"

	"carom/analytics/leases"
	"carom/schemas/limits"
)

// given is a hand-out to one node.
type given struct {
	share leases.Share
	at    time.Duration
}

// fleetNode is a node as it is, and as the controller knows it.
type fleetNode struct {
	name    string
	alive   bool
	backlog uint64
	using   given // what it obeys: until its lease ends
	hasOne  bool
	seen    int // of the hand-outs, those that it has read

	gauged    time.Duration // when the controller heard of it last
	confirmed int           // hand-outs that the controller knows it has read
	given     []given
}

// held is what the controller must count with: the largest share of every hand-out since the one that the
// node is known to have read, as long as it has not ended.
func (n *fleetNode) held(now time.Duration) (rate float64, connections uint32) {
	for _, g := range n.given[max(0, n.confirmed-1):] {
		if now-g.at < limits.DefaultTTL {
			rate, connections = max(rate, g.share.RatePerSecond), max(connections, g.share.Connections)
		}
	}
	return rate, connections
}

// TestLeasesOverTime plays an hour of hand-outs to nodes that join and die, whose polls get lost and whose
// clocks nobody asks: at no moment do the leases that are in force sum up to more than the limit, those of
// the dead until they end.
func TestLeasesOverTime(t *testing.T) {
	const (
		step = 5 * time.Second
		gone = 90 * time.Second // without a gauge
	)
	rapid.Check(t, func(t *rapid.T) {
		limit := limits.Static(rapid.SampledFrom([]float64{0.02, 0.3, 2, 10, 400}).Draw(t, "rate"), rapid.SampledFrom([]uint32{0, 1, 3, 20}).Draw(t, "connections"), 0)
		nodes := make([]*fleetNode, rapid.IntRange(1, 5).Draw(t, "nodes"))
		for i := range nodes {
			nodes[i] = &fleetNode{name: fmt.Sprint("n", i), alive: i == 0, gauged: -time.Hour}
		}
		chance := func(percent int, what string) bool { return rapid.IntRange(0, 99).Draw(t, what) < percent }
		var handedOut float64
		for now := time.Duration(0); now < 20*time.Minute; now += step {
			for _, n := range nodes {
				if chance(2, "dies or joins") {
					n.alive = !n.alive
				}
				if chance(10, "mail") {
					n.backlog = rapid.SampledFrom([]uint64{0, 1, 50, 100_000}).Draw(t, "backlog")
				}
				if n.hasOne && now-n.using.at >= limits.DefaultTTL {
					n.hasOne = false
				}
				if !n.alive {
					continue
				}
				if len(n.given) > n.seen && chance(70, "polls") { // the newest document alone
					n.seen = len(n.given)
					if newest := n.given[n.seen-1]; now-newest.at < limits.DefaultTTL {
						n.using, n.hasOne = newest, true
					}
				}
				if chance(80, "gauge arrives") {
					n.gauged, n.confirmed = now, n.seen
				}
			}
			if chance(80, "controller runs") {
				var known []leases.Node
				var index []*fleetNode
				for _, n := range nodes {
					rate, connections := n.held(now)
					isGone := now-n.gauged > gone
					if isGone && rate == 0 && connections == 0 {
						continue
					}
					known = append(known, leases.Node{Name: n.name, Backlog: n.backlog, Gone: isGone, HeldRate: rate, HeldConnections: connections})
					if !isGone {
						index = append(index, n)
					}
				}
				handedOut = 0
				for i, s := range leases.Split(limit, known) {
					index[i].given = append(index[i].given, given{s, now})
					handedOut += s.RatePerSecond
				}
				if handedOut > limit.RatePerSecond {
					t.Fatalf("at %v %v/s of %v/s are handed out", now, handedOut, limit.RatePerSecond)
				}
			}
			var rate float64
			var connections uint32
			for _, n := range nodes {
				if n.hasOne {
					rate, connections = rate+n.using.share.RatePerSecond, connections+n.using.share.Connections
				}
			}
			if rate > limit.RatePerSecond || limit.Connections != limits.Unlimited && connections > limit.Connections {
				t.Fatalf("at %v %v/s and %d connections are in use of %v/s and %d", now, rate, connections, limit.RatePerSecond, limit.Connections)
			}
		}
	})
}
