package leases_test

import (
	"fmt"
	"math"
	"testing"

	"pgregory.net/rapid"

	"carom/analytics/leases"
	"carom/schemas/limits"
)

func rate(perSecond float64) limits.Limit { return limits.Static(perSecond, 0, 0) }

func TestSplit(t *testing.T) {
	for _, tc := range []struct {
		name  string
		limit limits.Limit
		nodes []leases.Node
		want  []float64 // rates
	}{
		{"one node gets all", rate(10), []leases.Node{{Name: "a"}}, []float64{10}},
		{"equal backlogs", rate(10), []leases.Node{{Name: "a", Backlog: 1e6}, {Name: "b", Backlog: 1e6}}, []float64{5, 5}},
		{"a node without backlog keeps a little", rate(10), []leases.Node{{Name: "a", Backlog: 1e6}, {Name: "b"}}, []float64{9.71, 0.29}},
		{"too little to share", rate(0.15), []leases.Node{{Name: "a", Backlog: 3}, {Name: "b", Backlog: 40}}, []float64{0, 0.15}},
		{"canaries stay where they are", rate(1.0 / 30), []leases.Node{{Name: "a", Backlog: 3, HeldRate: 1.0 / 30}, {Name: "b", Backlog: 4}}, []float64{1.0 / 30, 0}},
		{"a share that is gone stays in use", rate(10), []leases.Node{{Name: "a", Backlog: 1e6, HeldRate: 5}, {Name: "b", Gone: true, HeldRate: 5}}, []float64{5}},
		{"a cut takes effect at once", rate(4), []leases.Node{{Name: "a", HeldRate: 5}, {Name: "b", HeldRate: 5}}, []float64{2, 2}},
		{"shrink first", rate(10), []leases.Node{{Name: "a", Backlog: 1e6}, {Name: "b", HeldRate: 10}}, []float64{0, 0.29}},
		{"grow later", rate(10), []leases.Node{{Name: "a", Backlog: 1e6}, {Name: "b", HeldRate: 0.29}}, []float64{9.71, 0.29}},
		{"small changes of the backlog move nothing", rate(10), []leases.Node{{Name: "a", Backlog: 1100, HeldRate: 5}, {Name: "b", Backlog: 1000, HeldRate: 5}}, []float64{5, 5}},
		{"no limit of rate", limits.Static(0, 4, 0), []leases.Node{{Name: "a"}, {Name: "b"}}, []float64{limits.UnlimitedRate, limits.UnlimitedRate}},
		{"nobody is alive", rate(10), []leases.Node{{Name: "a", Gone: true, HeldRate: 10}}, nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got := leases.Split(tc.limit, tc.nodes)
			if len(got) != len(tc.want) {
				t.Fatalf("Split = %+v, want %d shares", got, len(tc.want))
			}
			for i := range got {
				if math.Abs(got[i].RatePerSecond-tc.want[i]) > 0.01*tc.want[i]+1e-6 {
					t.Errorf("share of %s is %v, want %v", got[i].Node, got[i].RatePerSecond, tc.want[i])
				}
			}
		})
	}
}

func TestSplitConnections(t *testing.T) {
	got := leases.Split(limits.Static(100, 7, 0), []leases.Node{{Name: "a", Backlog: 2e6}, {Name: "b", Backlog: 1e6}, {Name: "c"}})
	var sum uint32
	for _, s := range got {
		sum += s.Connections
	}
	if sum != 7 || got[2].Connections != 1 || got[0].Connections != got[1].Connections {
		t.Errorf("7 connections became %+v", got)
	}
	got = leases.Split(limits.Static(100, 1, 0), []leases.Node{{Name: "a", Backlog: 5}, {Name: "b", Backlog: 9}})
	if got[0].RatePerSecond != 0 || got[0].Connections != 0 || got[1].Connections != 1 || got[1].RatePerSecond < 99 {
		t.Errorf("one connection for two nodes became %+v", got)
	}
}

// Whatever part of the hand-outs the nodes have seen, they never use more than the limit, once
// the limit was in force; and with a limit and backlogs that stay, the whole of it is handed out
// after a few hand-outs.
func TestSharesNeverExceedTheLimit(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		limit := limits.Static(
			rapid.Float64Range(1.0/120, 500).Draw(t, "rate"),
			rapid.SampledFrom([]uint32{0, 1, 2, 7, 40}).Draw(t, "connections"), 0,
		)
		n := rapid.IntRange(1, 6).Draw(t, "nodes")
		nodes := make([]leases.Node, n)
		using := make([]leases.Share, n) // what each node uses, of any hand-out since its last look
		for i := range nodes {
			nodes[i].Name = fmt.Sprint("n", i)
		}
		for range rapid.IntRange(1, 12).Draw(t, "hand-outs") {
			for i := range nodes {
				nodes[i].Backlog = rapid.SampledFrom([]uint64{0, 1, 50, 5000}).Draw(t, "backlog")
				nodes[i].Gone = rapid.IntRange(0, 9).Draw(t, "gone") == 0
			}
			shares := leases.Split(limit, nodes)
			for i, k := 0, 0; i < n; i++ {
				if nodes[i].Gone {
					continue
				}
				s := shares[k]
				k++
				if s.RatePerSecond < 0 || (s.Connections == 0 && limit.Connections != limits.Unlimited && s.RatePerSecond > 0) {
					t.Fatalf("share %+v", s)
				}
				if rapid.Bool().Draw(t, "looks") {
					using[i] = s
					nodes[i].HeldRate, nodes[i].HeldConnections = s.RatePerSecond, s.Connections
				} else {
					nodes[i].HeldRate = max(nodes[i].HeldRate, s.RatePerSecond)
					nodes[i].HeldConnections = max(nodes[i].HeldConnections, s.Connections)
				}
			}
			var sum float64
			var connections uint32
			for i := range using {
				sum += using[i].RatePerSecond
				connections += using[i].Connections
			}
			if sum > limit.RatePerSecond || limit.Connections != limits.Unlimited && connections > limit.Connections {
				t.Fatalf("in use are %v/s and %d connections of %+v: %+v", sum, connections, limit, using)
			}
		}
		for range 8 {
			var sum float64
			k := 0
			shares := leases.Split(limit, nodes)
			for i := range nodes {
				if !nodes[i].Gone {
					nodes[i].HeldRate, nodes[i].HeldConnections = shares[k].RatePerSecond, shares[k].Connections
					k++
				} else {
					nodes[i].HeldRate, nodes[i].HeldConnections = 0, 0
				}
				sum += nodes[i].HeldRate
			}
			if sum >= 0.9*limit.RatePerSecond {
				return
			}
		}
		alive := false
		for i := range nodes {
			alive = alive || !nodes[i].Gone
		}
		if alive {
			t.Fatalf("limit %+v is not handed out: %+v", limit, nodes)
		}
	})
}
