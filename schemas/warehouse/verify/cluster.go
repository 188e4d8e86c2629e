package verify

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"

	"carom/schemas/warehouse"
)

func (t *trial) server(ctx context.Context) (string, error) {
	conn, err := t.dialDefault()
	if err != nil {
		return "", err
	}
	defer func() { _ = conn.Close() }() // only read
	if err := conn.Ping(ctx); err != nil {
		return "", warehouse.Explain(t.URL, t.Warehouse, err)
	}
	var version, host, user string
	if err := conn.QueryRow(ctx, "SELECT version(), hostName(), currentUser()").Scan(&version, &host, &user); err != nil {
		return "", err
	}
	return fmt.Sprintf("ClickHouse %s on %s, as user %s", version, host, user), nil
}

// needCluster ends a check that one server can't give.
func (t *trial) needCluster() error {
	if t.Layout.Cluster == "" {
		return notChecked("one server; say --cluster NAME to try a cluster")
	}
	return nil
}

// topology looks for what the form for a cluster takes for granted: the macros {shard} and
// {replica}, tables that replicate by themselves, Keeper.
func (t *trial) topology(ctx context.Context) (string, error) {
	if err := t.needCluster(); err != nil {
		return "", err
	}
	conn, err := t.dialDefault()
	if err != nil {
		return "", err
	}
	defer func() { _ = conn.Close() }() // only read
	cluster := t.Layout.Cluster
	var shards, servers uint64
	if err := conn.QueryRow(ctx, "SELECT uniqExact(shard_num), count() FROM system.clusters WHERE cluster = ?", cluster).Scan(&shards, &servers); err != nil {
		return "", err
	}
	if servers == 0 {
		names, err := readStrings(ctx, conn, "SELECT DISTINCT cluster FROM system.clusters ORDER BY cluster")
		return "", errors.Join(fmt.Errorf("this server knows no cluster %s; it knows: %s", cluster, strings.Join(names, ", ")), err)
	}
	places, err := readStrings(ctx, conn, `SELECT concat(any(hostName()), ': ', arrayStringConcat(arraySort(groupArray(concat(macro, '=', substitution))), ' '))
FROM clusterAllReplicas(?, system.macros) WHERE macro IN ('shard', 'replica') GROUP BY _shard_num`, cluster)
	if err != nil {
		return "", fmt.Errorf("ask every server for its macros: %w", err)
	}
	if uint64(len(places)) != servers {
		return "", fmt.Errorf("the macros shard and replica are not set on every one of %d servers: %s", servers, strings.Join(places, "; "))
	}
	different := map[string]bool{}
	for _, p := range places {
		_, macros, _ := strings.Cut(p, ": ")
		if !strings.Contains(macros, "shard=") || !strings.Contains(macros, "replica=") || different[macros] {
			return "", fmt.Errorf("shard and replica together must differ on every server: %s", strings.Join(places, "; "))
		}
		different[macros] = true
	}
	// The column is in newer versions only.
	if alone, err := readStrings(ctx, conn, `SELECT toString(shard_num) FROM system.clusters
WHERE cluster = ? AND NOT internal_replication GROUP BY shard_num HAVING count() > 1`, cluster); err == nil && len(alone) > 0 {
		return "", fmt.Errorf("internal_replication is off for shard %s: every insert would be stored by each replica, twice", strings.Join(alone, ", "))
	}
	if _, err := readStrings(ctx, conn, "SELECT name FROM system.zookeeper WHERE path = '/'"); err != nil {
		return "", fmt.Errorf("ask Keeper: %w", err)
	}
	return fmt.Sprintf("%d shards, %d servers", shards, servers), nil
}

func (t *trial) schema(ctx context.Context) (string, error) {
	applied, err := t.Layout.Apply(ctx, t.url, t.Warehouse, t.Version)
	if err != nil {
		return "", err
	}
	again, err := t.Layout.Apply(ctx, t.url, t.Warehouse, t.Version)
	if err != nil {
		return "", fmt.Errorf("the second time: %w", err)
	}
	if len(again) > 0 {
		return "", fmt.Errorf("the second time it applied %d migrations again", len(again))
	}
	return fmt.Sprintf("%d migrations", len(applied)), nil
}

func (t *trial) everywhere(ctx context.Context) (string, error) {
	want, err := t.Layout.Tables()
	if err != nil {
		return "", err
	}
	servers, from, args := uint64(1), "system.tables", []any{t.database}
	if cluster := t.Layout.Cluster; cluster != "" {
		from, args = "clusterAllReplicas(?, system.tables)", []any{cluster, t.database}
		if servers, err = t.number(ctx, "SELECT count() FROM system.clusters WHERE cluster = ?", cluster); err != nil {
			return "", err
		}
	}
	has, err := t.strings(ctx, "SELECT concat(name, ' ', toString(count())) FROM "+from+" WHERE database = ? GROUP BY name", args...)
	if err != nil {
		return "", err
	}
	for _, name := range want {
		if !slices.Contains(has, fmt.Sprintf("%s %d", name, servers)) {
			return "", fmt.Errorf("%s is not on each of %d servers", name, servers)
		}
	}
	return fmt.Sprintf("%d tables and views on %d servers", len(want), servers), nil
}

// windows compares how long the tables remember tokens with what the schema asks for: a server may
// bound it by its own settings.
func (t *trial) windows(ctx context.Context) (string, error) {
	var seen []string
	for _, table := range warehouse.NodeTables() {
		w, err := warehouse.DedupWindow(ctx, t.conn, table)
		if err != nil {
			return "", err
		}
		if w.Blocks == 0 {
			return "", fmt.Errorf("%s remembers no tokens: a repeated batch would be stored twice", table)
		}
		text := fmt.Sprintf("%s %d inserts", table, w.Blocks)
		if w.Age > 0 {
			text += fmt.Sprintf(" of %v", w.Age)
		}
		seen = append(seen, text)
	}
	return strings.Join(seen, ", "), nil
}

func (t *trial) oneShard(ctx context.Context) (string, error) {
	if err := t.needCluster(); err != nil {
		return "", err
	}
	split, err := t.strings(ctx, "SELECT toString(node) FROM events GROUP BY node HAVING uniqExact(_shard_num) > 1")
	if err != nil {
		return "", err
	}
	if len(split) > 0 {
		return "", fmt.Errorf("rows of %s are on several shards: a repeated batch would not meet its token", strings.Join(split, ", "))
	}
	shards, err := t.number(ctx, "SELECT uniqExact(_shard_num) FROM events")
	return fmt.Sprintf("%d nodes on %d shards", t.nodes(), shards), err
}

// replicas waits until every replica of a node's shard has all of its rows.
func (t *trial) replicas(ctx context.Context) (string, error) {
	if err := t.needCluster(); err != nil {
		return "", err
	}
	cluster := t.Layout.Cluster
	copies, err := t.number(ctx, "SELECT min(n) FROM (SELECT count() AS n FROM system.clusters WHERE cluster = ? GROUP BY shard_num)", cluster)
	if err != nil {
		return "", err
	}
	if copies < 2 {
		return "", notChecked("a shard of this cluster has no second replica")
	}
	var whole, begun uint64
	err = t.settle(ctx, func(ctx context.Context) error {
		// Here every server counts as a shard.
		err := t.conn.QueryRow(ctx, `SELECT countIf(n = ?), count()
FROM (SELECT count() AS n FROM clusterAllReplicas(?, ?, 'events_local') GROUP BY node, _shard_num)`, rowsOfANode, cluster, t.database).Scan(&whole, &begun)
		if err != nil {
			return err
		}
		if whole != begun || whole < t.nodes()*copies {
			return fmt.Errorf("there are %d whole copies of %d nodes' rows and %d that lack some, want %d whole ones", whole, t.nodes(), begun-whole, t.nodes()*copies)
		}
		return nil
	})
	return fmt.Sprintf("%d whole copies of %d nodes' rows", whole, t.nodes()), err
}

// at connects to the scratch database at the given addresses of the URL only.
func (t *trial) at(addresses ...string) (driver.Conn, error) {
	opt, err := warehouse.ClientOptions(t.url, t.Warehouse)
	if err != nil {
		return nil, err
	}
	opt.Addr = addresses
	return clickhouse.Open(opt)
}

// addresses returns those of the URL.
func (t *trial) addresses() ([]string, error) {
	opt, err := warehouse.ClientOptions(t.url, t.Warehouse)
	if err != nil {
		return nil, err
	}
	return opt.Addr, nil
}

// repeats sends every batch once more by each address. A replica that did not take the first one
// has to know its token too.
func (t *trial) repeats(ctx context.Context) (string, error) {
	if err := t.remember(ctx); err != nil {
		return "", err
	}
	all, err := t.addresses()
	if err != nil {
		return "", err
	}
	for _, address := range all {
		if err := t.repeat(ctx, address); err != nil {
			return "", fmt.Errorf("at %s: %w", address, err)
		}
	}
	return fmt.Sprintf("%d addresses", len(all)), t.stored(ctx)
}

func (t *trial) repeat(ctx context.Context, address string) error {
	conn, err := t.at(address)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }() // every insert was answered
	for _, b := range t.batches {
		if err := warehouse.Events.Insert(ctx, conn, b.token, b.rows); err != nil {
			return err
		}
	}
	return nil
}

// failOver reaches each address when those before it are dead.
func (t *trial) failOver(ctx context.Context) (string, error) {
	all, err := t.addresses()
	if err != nil {
		return "", err
	}
	dead, err := deadAddress(ctx)
	if err != nil {
		return "", err
	}
	for i, address := range all {
		if err := t.reachable(ctx, append([]string{dead}, all[i:]...)); err != nil {
			return "", fmt.Errorf("at %s: %w", address, err)
		}
	}
	return fmt.Sprintf("%d addresses behind one that is dead; the death of a server was not tried: stop one and run this again", len(all)), nil
}

func (t *trial) reachable(ctx context.Context, addresses []string) error {
	conn, err := t.at(addresses...)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }() // only read
	var n uint64
	if err := conn.QueryRow(ctx, "SELECT count() FROM events").Scan(&n); err != nil {
		return err
	}
	if n != t.rows() {
		return fmt.Errorf("events has %d rows, want %d", n, t.rows())
	}
	return nil
}

// deadAddress returns an address of this machine that refuses connections.
func deadAddress(ctx context.Context) (string, error) {
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return listener.Addr().String(), listener.Close()
}
