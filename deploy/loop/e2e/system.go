package e2e

import (
	"bytes"
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"text/template"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"

	"carom/deploy/receivers"
	"carom/deploy/up"
	"carom/deploy/up/supervise"
	"carom/schemas/limits"
	"carom/schemas/warehouse"
)

//go:embed node.conf
var configText string

// source is the address that the node sends from, and key what its limits belong to.
const (
	source = "127.0.0.2"
	key    = "hidden/" + source
)

// system is carom up with the receivers that it sends to, in a folder of its own.
type system struct {
	dir, executable string
	scale           int
	origin          time.Time // of the system's time
	smtp, http      string    // addresses of the node and of ClickHouse
	receivers       receivers.Addresses
	files           *supervise.Files
	supervisor      *supervise.Supervisor
	conn            driver.Conn
}

// newSystem starts the receivers of a scenario, then carom up with the loop active or off.
func newSystem(ctx context.Context, o *options, dir string, t *trial, loop bool) (_ *system, err error) {
	y := &system{dir: dir, executable: o.executable, scale: o.scale}
	y.origin = origin(time.Now().UTC(), o.scale)
	if y.files, err = supervise.OpenFiles(filepath.Join(dir, "log")); err != nil {
		return nil, err
	}
	y.supervisor = supervise.New(supervise.Options{Log: o.log, Line: y.files.Line})
	defer func() {
		if err != nil {
			y.close()
		}
	}()
	for _, address := range []*string{&y.smtp, &y.http} {
		if *address, err = freeAddress(ctx); err != nil {
			return nil, err
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "scenario.json"), []byte(t.scenario(o.scale)), 0o600); err != nil {
		return nil, fmt.Errorf("write scenario: %w", err)
	}
	if err := y.startReceivers(ctx); err != nil {
		return nil, err
	}
	if err := y.writeConfig(t, loop); err != nil {
		return nil, err
	}
	args := []string{
		"up", "--dir", dir, "-c", filepath.Join(dir, "carom.conf"), "--policy", filepath.Join(dir, "policy.yaml"),
		"--time-scale", strconv.Itoa(o.scale) + "@" + y.origin.Format(time.RFC3339Nano), "--log-files",
	}
	if o.engineLib != "" {
		args = append(args, "--engine-lib", o.engineLib)
	}
	err = y.supervisor.Start(ctx, supervise.Process{Name: "up", Path: y.executable, Args: args, Once: true, StartTimeout: 2 * time.Minute, Ready: y.ready})
	if err != nil {
		return nil, up.Explain(err)
	}
	if y.conn, err = warehouse.Open(ctx, "http://"+y.http+"/carom", warehouse.Options{}); err != nil {
		return nil, err
	}
	return y, nil
}

// warmupDay is the length of a day where a warm-up is tried, and lead how long before the end of one, by the
// clock of the system, it starts: the receiver's days begin with the first message, and both should end at
// about the same time.
const (
	warmupDay = 30 * time.Minute
	lead      = 4 * time.Minute
)

// origin returns the moment at which the time of a system that starts now was the machine's.
func origin(now time.Time, scale int) time.Time {
	if scale == 1 {
		return now
	}
	ahead := warmupDay - now.Add(lead).Sub(now.Truncate(warmupDay))%warmupDay
	return now.Add(-ahead / time.Duration(scale-1))
}

// ready returns nil when the node takes mail, the tables are there, and the loop has told the node of itself:
// until then the configuration has the say over backoff.
func (y *system) ready(ctx context.Context) error {
	for _, name := range []string{"sender.ready", filepath.Join("feed", limits.FileName)} { // the tables come before the sender
		if _, err := os.Stat(filepath.Join(y.dir, name)); err != nil {
			return err
		}
	}
	return ctx.Err()
}

func (y *system) startReceivers(ctx context.Context) error {
	ready := filepath.Join(y.dir, "receivers.json")
	err := y.supervisor.Start(ctx, supervise.Process{
		Name: "receivers", Path: y.executable, Once: true,
		Args: []string{
			"receivers", "--scenario", filepath.Join(y.dir, "scenario.json"), "--time-scale", strconv.Itoa(y.scale), "--start-on-first-message",
			"--ready-file", ready, "--out", filepath.Join(y.dir, "receivers"), "--log-level", "warn",
		},
		Ready: func(context.Context) error { _, err := os.Stat(ready); return err },
	})
	if err != nil {
		return up.Explain(err)
	}
	data, err := os.ReadFile(ready) //nolint:gosec // our own child's
	if err != nil {
		return fmt.Errorf("read the receivers' addresses: %w", err)
	}
	if err := json.Unmarshal(data, &y.receivers); err != nil {
		return fmt.Errorf("read the receivers' addresses: %w", err)
	}
	return nil
}

func (y *system) writeConfig(t *trial, loop bool) error {
	for _, name := range []string{"reference.key", "suppression.key"} {
		if err := up.WriteKey(filepath.Join(y.dir, "keys", name)); err != nil {
			return err
		}
	}
	warmupStart := ""
	if t.warmup {
		warmupStart = y.origin.Format(time.DateOnly)
	}
	var text bytes.Buffer
	err := template.Must(template.New("node").Parse(configText)).Execute(&text, map[string]any{
		"SMTP": y.smtp, "HTTP": y.http, "DNS": y.receivers.DNS, "Port": y.receivers.SMTPPort, "Source": source,
		"PerHour": int(t.configured() * 3600), "BackoffPerHour": int(t.configured() * 3600 / 5), "WarmupStart": warmupStart,
	})
	if err != nil {
		return fmt.Errorf("write configuration: %w", err)
	}
	mode := "off"
	if loop {
		mode = "active"
	}
	for name, data := range map[string][]byte{"carom.conf": text.Bytes(), "policy.yaml": []byte("mode: " + mode + "\n" + t.policy)} {
		if err := os.WriteFile(filepath.Join(y.dir, name), data, 0o600); err != nil {
			return fmt.Errorf("write configuration: %w", err)
		}
	}
	return nil
}

// load sends the scenario's mail until it is all handed over or ctx ends.
func (y *system) load(ctx context.Context) error {
	err := y.supervisor.Do(ctx, supervise.Process{
		Name: "load", Path: y.executable, Args: []string{
			"load", "mail", "--to", y.smtp, "--scenario", filepath.Join(y.dir, "scenario.json"), "--time-scale", strconv.Itoa(y.scale),
			"--size", "600", "--connections", "8", "--job", "trial",
		},
	})
	if ctx.Err() != nil {
		return nil //nolint:nilerr // it was told to stop
	}
	return err
}

// operate runs `carom limits` with arguments. It lives in the machine's time, so when an order ends is
// told in that of the system.
func (y *system) operate(ctx context.Context, args []string) error {
	args = slices.Clone(args)
	if i := slices.Index(args, "--for"); i >= 0 {
		d, err := time.ParseDuration(args[i+1])
		if err != nil {
			return fmt.Errorf("carom limits %s: %w", strings.Join(args, " "), err)
		}
		passed := time.Since(y.origin) * time.Duration(y.scale)
		args[i], args[i+1] = "--until", y.origin.Add(passed+d).UTC().Format(time.RFC3339)
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, y.executable, append(append([]string{"limits"}, args...), "--url", "http://"+y.http+"/carom")...) //nolint:gosec // our own executable
	if output, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("carom limits %s: %w: %s", strings.Join(args, " "), err, bytes.TrimSpace(output))
	}
	return nil
}

// pause stops a child of carom up for a while: it does nothing, and its connections hang.
func (y *system) pause(ctx context.Context, child string, d time.Duration) error {
	pid, err := y.child(child)
	if err != nil {
		return err
	}
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		return fmt.Errorf("stop %s: %w", child, err)
	}
	wait(ctx, d)
	if err := syscall.Kill(pid, syscall.SIGCONT); err != nil {
		return fmt.Errorf("continue %s: %w", child, err)
	}
	return nil
}

// child returns the process of a subcommand that carom up has started in this folder.
func (y *system) child(subcommand string) (int, error) {
	all, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		return 0, fmt.Errorf("find %s: %w", subcommand, err)
	}
	for _, name := range all {
		data, err := os.ReadFile(name) //nolint:gosec // of the system
		args := strings.Split(string(data), "\x00")
		if err != nil || len(args) < 2 || args[0] != y.executable || args[1] != subcommand || !strings.Contains(string(data), y.dir) {
			continue
		}
		pid, err := strconv.Atoi(strings.Split(name, "/")[2])
		return pid, err
	}
	return 0, fmt.Errorf("find %s: no such process of carom up", subcommand)
}

// close stops everything; after it result.json is there.
func (y *system) close() {
	if y.conn != nil {
		_ = y.conn.Close()
		y.conn = nil
	}
	y.supervisor.Stop()
	_ = y.files.Close() // the lines are for people
}

// wait waits for d or until ctx ends.
func wait(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

func freeAddress(ctx context.Context) (string, error) {
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return "", fmt.Errorf("find a free port: %w", err)
	}
	return l.Addr().String(), l.Close()
}

// getJSON asks for url and decodes the answer into v.
func getJSON(ctx context.Context, url string, v any) error {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		return fmt.Errorf("ask %s: %w", url, err)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return fmt.Errorf("ask %s: %w", url, err)
	}
	defer func() { _ = response.Body.Close() }()
	if response.StatusCode != http.StatusOK {
		return errors.New("ask " + url + ": " + response.Status)
	}
	if err := json.NewDecoder(response.Body).Decode(v); err != nil {
		return fmt.Errorf("ask %s: %w", url, err)
	}
	return nil
}
