package jobs

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"

	"carom/analytics/control"
	"carom/analytics/leases"
	"carom/analytics/windows"
	"carom/schemas/limits"
)

// renewAfter is the age from which the leases of a node are issued again unchanged: four may be
// lost before a node's time to live ends.
const renewAfter = limits.DefaultTTL / 5

// issued is what a node was handed last, and what it may still be using.
type issued struct {
	generation uint64
	at         time.Time
	document   string
	leases     map[limits.Key]limits.Lease // of the last generation
	held       map[limits.Key]leases.Node  // largest share since the generation that it confirmed
}

// handOut splits the limits over the nodes and issues the leases and the document of each node for which
// something changed, or whose leases grow old. The leases of keys that nobody can read are left out of a
// new document: their nodes return to the configuration.
func (r *run) handOut(ctx context.Context, conn driver.Conn, p *pass, snapshot *windows.Snapshot, unreadable map[limits.Key]bool, document string) error {
	nodes, err := r.lastIssued(ctx, conn)
	if err != nil {
		return err
	}
	next := map[string]map[limits.Key]limits.Lease{}
	for _, k := range snapshot.Keys {
		for _, n := range k.Nodes {
			if next[n.Name] == nil {
				next[n.Name] = map[limits.Key]limits.Lease{}
			}
		}
	}
	if document != "" { // a node that sends nothing, or nothing yet, has one all the same
		alive, err := r.alive(ctx, conn)
		if err != nil {
			return err
		}
		for _, node := range slices.AppendSeq(alive, maps.Keys(nodes)) {
			if next[node] == nil {
				next[node] = map[limits.Key]limits.Lease{}
			}
		}
	}
	for key, k := range snapshot.Keys {
		state := p.states[key]
		if unreadable[key] {
			continue
		}
		if state.Control.Epoch == 0 && state.GlideSince == 0 {
			continue // the configuration holds
		}
		for _, l := range split(key, k, state, nodes) {
			if next[l.node] != nil {
				next[l.node][key] = l.Lease
			}
		}
	}
	var rows [][]any
	for _, node := range slices.Sorted(maps.Keys(next)) {
		last := nodes[node]
		if last == nil && len(next[node]) == 0 && document == "" {
			continue // it never had a lease
		}
		if last != nil && last.document == document && maps.Equal(last.leases, next[node]) && r.started.Sub(last.at) < renewAfter {
			continue
		}
		rows = append(rows, r.leaseRow(node, limits.Lease{}, document))
		for _, key := range slices.SortedFunc(maps.Keys(next[node]), limits.Key.Compare) {
			rows = append(rows, r.leaseRow(node, next[node][key], ""))
		}
	}
	return insert(ctx, conn, r.token("leases"), "leases", []string{
		"node", "generation", "provider", "source", "issued_at", "ttl_seconds", "epoch", "rate", "connections",
		"messages_per_connection", "canary", "greylisting", "not_after", "reason_id", "document",
	}, rows)
}

func (r *run) leaseRow(node string, l limits.Lease, document string) []any {
	return []any{
		node, r.generation, l.Provider, l.Source, r.started, uint32(limits.DefaultTTL.Seconds()), l.Epoch, l.RatePerSecond, l.Connections,
		l.MessagesPerConnection, l.Canary, l.Greylisting, orEpoch(l.NotAfter), l.ReasonID, document,
	}
}

// nodeLease is a lease and whose it is.
type nodeLease struct {
	limits.Lease
	node string
}

// split divides the limit of one key over its live nodes.
func split(key limits.Key, k *windows.Key, state remembered, nodes map[string]*issued) []nodeLease {
	c := state.Control
	var ended time.Time // the nodes glide from here
	if c.Epoch == 0 {
		c, ended = state.GlideOf, windows.Time(state.GlideSince)
	}
	// A lease holds connections and messages only where the loop or a pin sets them: else each node has its own.
	inForce := c.InForce(k.Static).Min(limits.Ceiling(k.Static, k.Adaptive))
	limit := limits.None()
	limit.RatePerSecond = inForce.RatePerSecond
	if cmp.Or(c.Pinned.Connections, c.Connections) > 0 {
		limit.Connections = inForce.Connections
	}
	var messages uint32
	if cmp.Or(c.Pinned.MessagesPerConnection, c.MessagesPerConnection) > 0 {
		messages = inForce.MessagesPerConnection
	}
	share := make([]leases.Node, 0, len(k.Nodes))
	for _, n := range k.Nodes {
		one := leases.Node{Name: n.Name, Backlog: n.Backlog}
		if last := nodes[n.Name]; last != nil {
			one.HeldRate, one.HeldConnections = last.held[key].HeldRate, last.held[key].HeldConnections
		}
		share = append(share, one)
	}
	live := func(name string) bool {
		return slices.ContainsFunc(k.Nodes, func(n windows.Node) bool { return n.Name == name })
	}
	for name, last := range nodes {
		if held, ok := last.held[key]; ok && !live(name) {
			share = append(share, leases.Node{Name: name, Gone: true, HeldRate: held.HeldRate, HeldConnections: held.HeldConnections})
		}
	}
	slices.SortFunc(share, func(a, b leases.Node) int {
		return limits.Key{Provider: a.Name}.Compare(limits.Key{Provider: b.Name})
	})
	out := make([]nodeLease, 0, len(share))
	for _, s := range leases.Split(limit, share) {
		out = append(out, nodeLease{node: s.Node, Lease: limits.Lease{
			Provider: key.Provider, Source: key.Source, Epoch: c.Epoch,
			RatePerSecond: s.RatePerSecond, Connections: s.Connections, MessagesPerConnection: messages,
			Canary: c.Mode == control.Suspended && c.Pinned.Rate == 0, Greylisting: c.Greylisting, ReasonID: state.ReasonID, NotAfter: ended,
		}})
	}
	return out
}

// seenWithin is how old the last sign of life of a node's agent may be.
const seenWithin = 5 * time.Minute

// alive returns the nodes whose agents have given a sign of life lately.
func (r *run) alive(ctx context.Context, conn driver.Conn) ([]string, error) {
	rows, err := conn.Query(with(ctx, clickhouse.Parameters{"since": micros(r.started.Add(-seenWithin))}),
		"SELECT DISTINCT node FROM nodes WHERE seen_at > fromUnixTimestamp64Micro({since:Int64}, 'UTC')")
	if err != nil {
		return nil, fmt.Errorf("read nodes: %w", err)
	}
	var nodes []string
	err = each(rows, "read nodes", func() error {
		var node string
		err := rows.Scan(&node)
		nodes = append(nodes, node)
		return err
	})
	return nodes, err
}

// lastIssued reads, for every node with leases that may be in force, the last ones and all since
// the generation that the node's agent confirmed.
func (r *run) lastIssued(ctx context.Context, conn driver.Conn) (map[string]*issued, error) {
	rows, err := conn.Query(with(ctx, clickhouse.Parameters{
		"since": micros(r.started.Add(-limits.DefaultTTL)), "generation": strconv.FormatUint(r.generation, 10),
	}), `
SELECT l.node, l.generation, l.issued_at, l.provider, l.source, l.epoch, l.rate, l.connections, l.messages_per_connection, l.canary, l.greylisting, l.reason_id, l.not_after, l.document
FROM leases AS l
LEFT JOIN (SELECT node, max(limits_generation) AS confirmed FROM nodes FINAL GROUP BY node) AS n ON l.node = n.node
WHERE l.issued_at > fromUnixTimestamp64Micro({since:Int64}, 'UTC') AND l.generation >= n.confirmed AND l.generation < {generation:UInt64}
ORDER BY l.node, l.generation`)
	if err != nil {
		return nil, fmt.Errorf("read leases: %w", err)
	}
	nodes := map[string]*issued{}
	err = each(rows, "read leases", func() error {
		var node string
		var generation uint64
		var at time.Time
		var l limits.Lease
		var document string
		if err := rows.Scan(&node, &generation, &at, &l.Provider, &l.Source, &l.Epoch, &l.RatePerSecond, &l.Connections,
			&l.MessagesPerConnection, &l.Canary, &l.Greylisting, &l.ReasonID, &l.NotAfter, &document); err != nil {
			return err
		}
		l.NotAfter = zeroEpoch(l.NotAfter)
		n := nodes[node]
		if n == nil {
			n = &issued{held: map[limits.Key]leases.Node{}}
			nodes[node] = n
		}
		if generation != n.generation {
			n.generation, n.at, n.leases = generation, at, map[limits.Key]limits.Lease{}
		}
		if l.Provider == "" {
			n.document = document // of the head
			return nil
		}
		n.leases[l.Key()] = l
		held := n.held[l.Key()]
		if l.RatePerSecond < limits.UnlimitedRate {
			held.HeldRate = max(held.HeldRate, l.RatePerSecond)
		}
		held.HeldConnections = max(held.HeldConnections, l.Connections)
		n.held[l.Key()] = held
		return nil
	})
	return nodes, err
}
