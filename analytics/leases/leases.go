// Package leases splits the limit of a key over the nodes that send for it.
//
// Split is pure: it knows what each node may still be using, so the sum of what is in use never
// exceeds the limit, whatever part of the hand-out the nodes have seen. A share shrinks at once
// and grows into what others gave up, one hand-out later. Safe for concurrent use.
package leases

import (
	"cmp"
	"math"
	"slices"
	"time"

	"carom/schemas/limits"
)

const (
	// horizon is how much of a backlog counts: what the whole limit sends in this time.
	horizon = 5 * time.Minute
	// baseShare is the need of a node without backlog, as a share of the horizon, so that new
	// mail does not wait for the next hand-out.
	baseShare = 0.02
	// tolerance is how far a share may be from its target, as a share of the limit, before
	// shares move: a backlog never stands still.
	tolerance = 0.05
	// idle is how much of the limit may lie unused by shares that are kept.
	idle = 0.02
	// slack keeps sums of floating-point shares under the limit.
	slack = 1e-9
)

// Node is one node that sends, or sent, for the key.
type Node struct {
	Name    string
	Backlog uint64 // recipients that are due
	// Gone says that the node gives no sign of life. It gets nothing, and what it holds stays in
	// use until its lease ends.
	Gone bool
	// HeldRate and HeldConnections are the largest share that the node may still be using: that
	// of every hand-out since the last one it confirmed. 0 for none.
	HeldRate        float64
	HeldConnections uint32
}

// Share is what one node gets.
type Share struct {
	Node string
	// RatePerSecond is limits.UnlimitedRate where the key has no limit of rate, and 0 for a node
	// that must not send.
	RatePerSecond float64
	// Connections is 0 where the key has no limit of connections.
	Connections uint32
}

// Split returns the share of every node that is not gone, in the order of nodes. Shares follow the
// backlog, none that sends is under limits.SmallestRate unless the whole limit is, and a node
// without a connection gets no rate. The new shares, and those that are held with them, sum up to
// no more than the limit, or to no more than what is held where a limit came down.
func Split(limit limits.Limit, nodes []Node) []Share {
	live := make([]int, 0, len(nodes))
	for i := range nodes {
		if !nodes[i].Gone {
			live = append(live, i)
		}
	}
	if len(live) == 0 {
		return nil
	}
	needs := need(limit, nodes)
	holders := choose(limit, nodes, live, needs)
	rates := splitRate(limit.RatePerSecond, nodes, holders, needs)
	connections := splitConnections(limit.Connections, nodes, holders, needs)
	shares := make([]Share, 0, len(live))
	for _, i := range live {
		s := Share{Node: nodes[i].Name, RatePerSecond: rates[i]}
		if limit.Connections != limits.Unlimited {
			if s.Connections = connections[i]; s.Connections == 0 {
				s.RatePerSecond = 0
			}
		}
		shares = append(shares, s)
	}
	return shares
}

// need weighs each node.
func need(limit limits.Limit, nodes []Node) []float64 {
	most := math.MaxFloat64
	base := 1.0
	if limit.HasRate() {
		most = limit.RatePerSecond * horizon.Seconds()
		base = baseShare * most
	}
	needs := make([]float64, len(nodes))
	for i, n := range nodes {
		needs[i] = min(float64(n.Backlog), most) + base
	}
	return needs
}

// choose returns which nodes send: all, or the neediest where the limit is too small to share.
// Who sends already goes on until another needs it twice as much.
func choose(limit limits.Limit, nodes []Node, live []int, needs []float64) []int {
	room := float64(len(live))
	if limit.HasRate() {
		room = min(room, max(1, math.Floor(limit.RatePerSecond/limits.SmallestRate*(1+slack))))
	}
	if limit.Connections != limits.Unlimited {
		room = min(room, float64(limit.Connections))
	}
	holders := slices.Clone(live)
	if int(room) >= len(holders) {
		return holders
	}
	rank := func(i int) float64 {
		if nodes[i].HeldRate > 0 {
			return 2 * needs[i]
		}
		return needs[i]
	}
	slices.SortStableFunc(holders, func(a, b int) int {
		return cmp.Or(cmp.Compare(rank(b), rank(a)), cmp.Compare(nodes[a].Name, nodes[b].Name))
	})
	return holders[:int(room)]
}

func splitRate(rate float64, nodes []Node, holders []int, needs []float64) []float64 {
	out := make([]float64, len(nodes))
	if math.IsInf(rate, 1) {
		for _, i := range holders {
			out[i] = limits.UnlimitedRate
		}
		return out
	}
	rate *= 1 - slack
	target := make([]float64, len(nodes))
	least := min(limits.SmallestRate, rate/float64(max(1, len(holders))))
	var sum float64
	for _, i := range holders {
		sum += needs[i]
	}
	for _, i := range holders {
		target[i] = least
		if sum > 0 {
			target[i] += max(0, rate-least*float64(len(holders))) * needs[i] / sum
		}
	}
	if keeps(rate, nodes, target) {
		for i, n := range nodes {
			out[i] = n.HeldRate
		}
		return out
	}
	var held, want float64
	for i, n := range nodes {
		held += min(n.HeldRate, limits.UnlimitedRate)
		want += max(0, target[i]-n.HeldRate)
	}
	grow := 0.0
	if want > 0 {
		grow = min(1, max(0, rate-held)/want)
	}
	for i, n := range nodes {
		out[i] = min(n.HeldRate, target[i]) + grow*max(0, target[i]-n.HeldRate)
	}
	return out
}

// keeps reports whether what the nodes hold is near enough to target.
func keeps(rate float64, nodes []Node, target []float64) bool {
	var sum float64
	for i, n := range nodes {
		if n.Gone && n.HeldRate > 0 || math.Abs(n.HeldRate-target[i]) > tolerance*rate || (n.HeldRate == 0) != (target[i] == 0) {
			return false
		}
		sum += n.HeldRate
	}
	return sum <= rate/(1-slack) && sum >= (1-idle)*rate
}

// splitConnections gives each holder one connection and divides the rest by largest remainder.
func splitConnections(total uint32, nodes []Node, holders []int, needs []float64) []uint32 {
	out := make([]uint32, len(nodes))
	if total == limits.Unlimited || len(holders) == 0 {
		return out
	}
	target := make([]uint32, len(nodes))
	remainder := make([]float64, len(nodes))
	var sum float64
	for _, i := range holders {
		sum += needs[i]
	}
	rest := total - uint32(len(holders)) //nolint:gosec // choose returns at most total holders
	left := rest
	for _, i := range holders {
		exact := 0.0
		if sum > 0 {
			exact = float64(rest) * needs[i] / sum
		}
		whole := min(uint32(exact), left)
		target[i], remainder[i] = 1+whole, exact-float64(whole)
		left -= whole
	}
	order := slices.Clone(holders)
	slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(remainder[b], remainder[a]) })
	for k := 0; left > 0; k, left = k+1, left-1 {
		target[order[k%len(order)]]++
	}
	free := int64(total)
	for _, n := range nodes {
		free -= int64(n.HeldConnections)
	}
	for i, n := range nodes {
		out[i] = min(target[i], n.HeldConnections)
	}
	for _, i := range order {
		grow := min(int64(target[i]-out[i]), max(0, free))
		out[i] += uint32(grow) //nolint:gosec // under target
		free -= grow
	}
	return out
}
