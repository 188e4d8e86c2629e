package up

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"carom/schemas/service"
	"carom/sender/config"
)

// noteFile is the file to which the children of a test write what they do. With it set, the test
// binary plays carom's subcommands.
const noteFile = "CAROM_TEST_NOTES"

func TestMain(m *testing.M) {
	if os.Getenv(noteFile) == "" || len(os.Args) < 2 || strings.HasPrefix(os.Args[1], "-test.") {
		os.Exit(m.Run())
	}
	os.Exit(play(os.Args[1:]))
}

// play does what matters to carom up of the subcommand in args.
func play(args []string) int {
	term := make(chan os.Signal, 1)
	signal.Notify(term, syscall.SIGTERM)
	note := func(what string) {
		f, err := os.OpenFile(os.Getenv(noteFile), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
		if err != nil {
			panic(err)
		}
		fmt.Fprintln(f, what, args[0])
		f.Close()
	}
	if os.Getenv("CAROM_TEST_BROKEN") == args[0] {
		fmt.Fprintln(os.Stderr, "carom: this cannot work")
		return 2
	}
	note("start")
	switch args[0] {
	case "schema":
		return 0
	case "clickhouse":
		if err := os.WriteFile(after(args, "--port-file"), nil, 0o600); err != nil {
			panic(err)
		}
		go http.ListenAndServe(after(args, "--listen"), http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	case "sender":
		if err := os.WriteFile(after(args, "--ready-file"), nil, 0o600); err != nil {
			panic(err)
		}
	}
	<-term
	note("stop")
	return 0
}

func after(args []string, name string) string {
	return args[slices.Index(args, name)+1]
}

func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// run runs carom up until enough is true after its greeting, or it ends; nil leaves that to itself.
func run(t *testing.T, enough func() bool, args ...string) (out string, err error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	r, w := io.Pipe()
	ended := make(chan error, 1)
	go func() {
		ended <- Command(ctx, args, service.IO{Out: w, Err: t.Output()})
		w.Close()
	}()
	lines := bufio.NewScanner(r)
	var b strings.Builder
	for lines.Scan() {
		fmt.Fprintln(&b, lines.Text())
		if enough != nil && strings.HasPrefix(lines.Text(), "Stop everything with Ctrl-C") {
			for !enough() && ctx.Err() == nil {
				time.Sleep(5 * time.Millisecond)
			}
			cancel()
		}
	}
	return b.String(), <-ended
}

func TestUpStartsAndStopsInOrder(t *testing.T) {
	dir := t.TempDir()
	notes := filepath.Join(dir, "notes")
	t.Setenv(noteFile, notes)
	listen, smtp := freePort(t), freePort(t)
	data := filepath.Join(dir, "data")
	started := func() bool {
		b, err := os.ReadFile(notes)
		return err == nil && strings.Count(string(b), "start") == 5
	}
	out, err := run(t, started, "--dir", data, "--listen", listen, "--smtp", smtp)
	if err != nil {
		t.Fatalf("carom up: %v", err)
	}
	for _, want := range []string{"smtp://" + smtp, "http://" + listen + "/?database=carom", filepath.Join(data, "carom.conf")} {
		if !strings.Contains(out, want) {
			t.Errorf("the greeting lacks %q:\n%s", want, out)
		}
	}
	got, err := os.ReadFile(notes)
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(string(got)), "\n")
	// The agent and the analytics count as ready as soon as they run, so their notes may change places.
	slices.Sort(lines[3:5])
	want := []string{
		"start clickhouse", "start schema", "start sender", "start analytics", "start ingest",
		"stop analytics", "stop ingest", "stop sender", "stop clickhouse",
	}
	if diff := cmp.Diff(want, lines); diff != "" {
		t.Errorf("order (-want +got):\n%s", diff)
	}
}

func TestUpEndsWithTheChildThatCannotWork(t *testing.T) {
	for _, part := range []string{"clickhouse", "schema", "sender", "ingest", "analytics"} {
		t.Run(part, func(t *testing.T) {
			dir := t.TempDir()
			t.Setenv(noteFile, filepath.Join(dir, "notes"))
			t.Setenv("CAROM_TEST_BROKEN", part)
			_, err := run(t, nil, "--dir", dir, "--listen", freePort(t), "--smtp", freePort(t))
			if status := service.ExitStatus(err); status != 2 || !strings.HasSuffix(fmt.Sprint(err), ": this cannot work") || strings.Contains(fmt.Sprint(err), "carom:") {
				t.Errorf("carom up: %v with exit status %d, want the child's line without its carom: and status 2", err, status)
			}
		})
	}
}

func TestFirstConfigurationIsReadyAndStays(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "carom.conf")
	if err := writeFirst(dir, file, "127.0.0.1:18123", "127.0.0.1:12525"); err != nil {
		t.Fatal(err)
	}
	c, warnings, err := config.Load(file)
	if err != nil || len(warnings) > 0 {
		t.Fatalf("the first configuration: %v, warnings %v", err, warnings)
	}
	address, _ := c.Listeners[0].Address()
	if address != "127.0.0.1:12525" || c.EventStream.URL.String() != "http://127.0.0.1:18123" {
		t.Errorf("listener %s, event-stream %s; want those of the flags", address, c.EventStream.URL)
	}
	if len(c.ReferenceKeys) != 1 || c.Feed.SuppressionKey.IsZero() || len(c.Spools) != 1 || c.Admin == nil {
		t.Error("the first configuration lacks a key, the spool or the admin socket")
	}
	for _, key := range []string{"reference.key", "suppression.key"} {
		info, err := os.Stat(filepath.Join(dir, "keys", key))
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Perm() != 0o600 || info.Size() != 65 {
			t.Errorf("%s: mode %v, %d bytes; want 0600 and 64 digits with a line end", key, info.Mode(), info.Size())
		}
	}

	before := readAll(t, dir)
	if err := writeFirst(dir, file, "", ""); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(before, readAll(t, dir)); diff != "" {
		t.Errorf("the second start changed (-before +after):\n%s", diff)
	}
	y, err := Open(Options{Dir: dir, ConfigFile: file, PolicyFile: filepath.Join(dir, "policy.yaml")})
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		listen, smtp string
		want         int
	}{
		{"", "", 0}, {"127.0.0.1:18123", "127.0.0.1:12525", 0}, {"127.0.0.1:1", "", 2}, {"", "127.0.0.1:1", 2},
	} {
		if err := y.hasAddresses(tc.listen, tc.smtp); service.ExitStatus(err) != tc.want {
			t.Errorf("--listen %q --smtp %q with this configuration: %v, want exit status %d", tc.listen, tc.smtp, err, tc.want)
		}
	}
}

func readAll(t *testing.T, dir string) map[string]string {
	t.Helper()
	all := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		all[path] = string(data)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func TestMistakes(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	broken := write("broken.conf", "host-nam a.test\n")
	for _, tc := range []struct {
		name string
		args []string
		want string
	}{
		{"unknown flag", []string{"--dirr", "x"}, "--help"},
		{"argument", []string{"x"}, "unexpected argument"},
		{"log level", []string{"--dir", dir, "--log-level", "loud"}, "loud"},
		{"no such file", []string{"--dir", dir, "-c", filepath.Join(dir, "none")}, "none: no such file"},
		{"mistake in the file", []string{"--dir", dir, "-c", broken}, "broken.conf:1:1"},
		{"bad address", []string{"--dir", filepath.Join(dir, "new"), "--listen", "8123"}, `--listen "8123": want IP:PORT`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			err := Command(t.Context(), tc.args, service.IO{Out: io.Discard, Err: io.Discard})
			if service.ExitStatus(err) != 2 || !strings.Contains(fmt.Sprint(err), tc.want) {
				t.Errorf("carom up %q: %v, want a ConfigError with %q", tc.args, err, tc.want)
			}
		})
	}
}

func TestHelp(t *testing.T) {
	var out strings.Builder
	err := Command(t.Context(), []string{"--help"}, service.IO{Out: &out, Err: io.Discard})
	if !errors.Is(err, flag.ErrHelp) || !strings.Contains(out.String(), "carom up --dir ./carom-data") {
		t.Errorf("--help: %v\n%s", err, out.String())
	}
}

func TestOpenKnowsWhoRunsClickHouse(t *testing.T) {
	const sections = "<event-log events>\n</event-log>\n<feed feed>\n</feed>\n"
	for _, tc := range []struct {
		stream   string
		embedded bool
		url      string
		query    string
	}{
		{"http://127.0.0.1:8123", true, "http://127.0.0.1:8123/carom", "http://127.0.0.1:8123/?database=carom"},
		{"http://localhost:8123/mail", true, "http://localhost:8123/mail", "http://localhost:8123/?database=mail"},
		{"http://[::1]:8123", true, "http://[::1]:8123/carom", "http://[::1]:8123/?database=carom"},
		{"http://10.1.2.3:8123", false, "http://10.1.2.3:8123/carom", "http://10.1.2.3:8123/?database=carom"},
		{"https://127.0.0.1:8443", false, "https://127.0.0.1:8443/carom", "https://127.0.0.1:8443/?database=carom"},
		{"clickhouse://127.0.0.1:9000", false, "clickhouse://127.0.0.1:9000/carom", ""},
	} {
		t.Run(tc.stream, func(t *testing.T) {
			dir := t.TempDir()
			file := filepath.Join(dir, "carom.conf")
			text := sections + "<event-stream " + tc.stream + ">\n</event-stream>\n"
			if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			y, err := Open(Options{Dir: dir, ConfigFile: file, PolicyFile: filepath.Join(dir, "policy.yaml")})
			if err != nil {
				t.Fatal(err)
			}
			if y.embedded() != tc.embedded || y.url != tc.url || y.QueryURL() != tc.query {
				t.Errorf("embedded %v, url %q, query %q; want %v, %q, %q", y.embedded(), y.url, y.QueryURL(), tc.embedded, tc.url, tc.query)
			}
		})
	}
}

// TestStrangerAtTheEnginesAddressIsNotTheEngine: a ping there is answered by something else, which
// must not get carom's tables.
func TestStrangerAtTheEnginesAddressIsNotTheEngine(t *testing.T) {
	dir := t.TempDir()
	stranger := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	defer stranger.Close()
	file := filepath.Join(dir, "carom.conf")
	if err := writeFirst(dir, file, stranger.Listener.Addr().String(), "127.0.0.1:12525"); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "engine.ready"), nil, 0o600); err != nil { // of an earlier run
		t.Fatal(err)
	}
	y, err := Open(Options{Dir: dir, ConfigFile: file, PolicyFile: filepath.Join(dir, "policy.yaml")})
	if err != nil {
		t.Fatal(err)
	}
	engine, err := y.engine()
	if err != nil {
		t.Fatal(err)
	}
	if err := engine.Ready(t.Context()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("with a stranger at the address: %v, want that the port file is missing", err)
	}
	if err := os.WriteFile(after(engine.Args, "--port-file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := engine.Ready(t.Context()); err != nil {
		t.Errorf("when the engine wrote its port file: %v", err)
	}
}

func TestPasswordReachesTheChildrenByFile(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"pw":         "s3cret\n",
		"carom.conf": "<event-log events>\n</event-log>\n<feed feed>\n</feed>\n<event-stream http://127.0.0.1:8123>\nuser carom\npassword-file pw\n</event-stream>\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	y, err := Open(Options{Dir: dir, ConfigFile: filepath.Join(dir, "carom.conf"), PolicyFile: filepath.Join(dir, "policy.yaml")})
	if err != nil {
		t.Fatal(err)
	}
	engine, err := y.engine()
	if err != nil {
		t.Fatal(err)
	}
	args := engine.Args
	if after(args, "--user") != "carom" {
		t.Errorf("the engine's arguments %q lack the user", args)
	}
	got, err := os.ReadFile(after(args, "--password-file"))
	if err != nil || string(got) != "s3cret\n" {
		t.Errorf("the password file holds %q, %v", got, err)
	}
	if info, err := os.Stat(after(args, "--password-file")); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the password file: %v, %v; want mode 0600", info.Mode(), err)
	}
}
