package verify

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"

	"carom/schemas/warehouse"
)

// Codes of ClickHouse's exceptions (src/Common/ErrorCodes.cpp) by which a server says that its users
// can't be made by this one, or not by SQL at all.
var noUsers = []int32{
	48,  // NOT_IMPLEMENTED
	344, // SUPPORT_IS_DISABLED
	495, // ACCESS_STORAGE_READONLY
	497, // ACCESS_DENIED
	514, // ACCESS_STORAGE_FOR_INSERTION_NOT_FOUND
}

// refusals are the codes by which a statement is refused to a user.
var refusals = []int32{
	164, // READONLY
	497, // ACCESS_DENIED
}

// madeObject is what carom schema roles creates, with its name and what follows ON.
var madeObject = regexp.MustCompile("^CREATE (ROLE|USER|SETTINGS PROFILE|ROW POLICY) IF NOT EXISTS (`(?:[^`\\\\]|\\\\.)*`)(?: ON CLUSTER `[^`]*`)?(?: ON (`[^`]*`\\.`[^`]*`))?")

// An attempt is a statement that a role may run, or not.
type attempt struct {
	role    string // without prefix
	sql     string
	allowed bool
}

// grants makes the roles and users of carom schema roles under names of its own, tries them and
// drops them.
func (t *trial) grants(ctx context.Context) (detail string, err error) {
	password := rand.Text()
	names := []string{"ingest", "analytics", "grafana", "tenant_tenant1"}
	passwords := warehouse.Passwords{}
	for _, name := range names {
		passwords[t.Layout.RolePrefix+name] = password
	}
	var b bytes.Buffer
	if err := t.Layout.Roles(&b, t.database, []string{"tenant1"}, passwords); err != nil {
		return "", err
	}
	var drops []string
	defer func() {
		slices.Reverse(drops)
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), dropTimeout)
		defer cancel()
		for _, drop := range drops {
			if dropErr := t.conn.Exec(ctx, drop); dropErr != nil {
				err = errors.Join(err, fmt.Errorf("%s: %w", drop, dropErr))
			}
		}
	}()
	for statement := range strings.SplitSeq(strings.TrimSuffix(b.String(), ";\n"), ";\n") {
		if err := t.conn.Exec(ctx, statement); err != nil {
			if e, ok := errors.AsType[*clickhouse.Exception](err); ok && slices.Contains(noUsers, e.Code) {
				return "", notChecked("this user can't make users here (code %d, %.80s); carom schema roles writes them for an administrator", e.Code, e.Message)
			}
			return "", fmt.Errorf("%s: %w", statement, err)
		}
		if m := madeObject.FindStringSubmatch(statement); m != nil {
			drop := "DROP " + m[1] + " IF EXISTS " + m[2]
			if m[3] != "" {
				drop += " ON " + m[3]
			}
			drops = append(drops, drop+t.onCluster())
		}
	}
	return t.tryRoles(ctx, names, password)
}

func (t *trial) tryRoles(ctx context.Context, names []string, password string) (string, error) {
	conns := map[string]driver.Conn{}
	defer func() {
		for _, conn := range conns {
			_ = conn.Close() // every statement was answered
		}
	}()
	for _, name := range names {
		conn, err := warehouse.Dial(t.url, warehouse.Options{User: t.Layout.RolePrefix + name + "_user", Password: password})
		if err != nil {
			return "", err
		}
		conns[name] = conn
	}
	if err := warehouse.Events.Insert(ctx, conns["ingest"], t.batches[0].token, t.batches[0].rows); err != nil {
		return "", fmt.Errorf("as ingest: %w", err)
	}
	for _, a := range attempts() {
		err := conns[a.role].Exec(ctx, a.sql)
		e, _ := errors.AsType[*clickhouse.Exception](err)
		switch {
		case a.allowed && err != nil:
			return "", fmt.Errorf("as %s: %s: %w", a.role, a.sql, err)
		case !a.allowed && err == nil:
			return "", fmt.Errorf("as %s: %s is allowed", a.role, a.sql)
		case !a.allowed && (e == nil || !slices.Contains(refusals, e.Code)):
			return "", fmt.Errorf("as %s: %s was to be refused for want of rights: %w", a.role, a.sql, err)
		}
	}
	var all, theirs uint64
	err := conns["tenant_tenant1"].QueryRow(ctx, "SELECT count(), countIf(tenant = 'tenant1') FROM events").Scan(&all, &theirs)
	if err != nil {
		return "", fmt.Errorf("as a tenant: %w", err)
	}
	if all != theirs || theirs == 0 {
		return "", fmt.Errorf("a tenant sees %d events, of which %d are its own", all, theirs)
	}
	var seen uint64
	if err := conns["grafana"].QueryRow(ctx, "SELECT count() FROM events").Scan(&seen); err != nil {
		return "", fmt.Errorf("as grafana: %w", err)
	}
	if seen != t.rows() {
		return "", fmt.Errorf("grafana sees %d events of %d: a row policy hides some", seen, t.rows())
	}
	return fmt.Sprintf("%d users, %d statements allowed or refused as expected", len(names), len(attempts())), nil
}

func attempts() []attempt {
	return []attempt{
		{"ingest", "SELECT max(generation) FROM leases", true},
		{"ingest", "SELECT count() FROM limit_log", false},
		{"ingest", "INSERT INTO leases (node) VALUES ('x')", false},
		{"ingest", "TRUNCATE TABLE events", false},
		{"analytics", "SELECT count() FROM limit_state FINAL", true},
		{"analytics", "INSERT INTO events (node) VALUES ('x')", false},
		{"analytics", "ALTER TABLE limit_log DELETE WHERE 1", false},
		{"grafana", "SELECT count() FROM limit_log", true},
		{"grafana", "INSERT INTO annotations (node) VALUES ('x')", false},
		{"grafana", "SELECT count() FROM url('http://127.0.0.1:1/', 'CSV', 'a String')", false},
		{"tenant_tenant1", "SELECT count() FROM limit_state", false},
		{"tenant_tenant1", "SELECT count() FROM suppressions", false},
	}
}
