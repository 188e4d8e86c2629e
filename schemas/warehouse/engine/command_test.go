//go:build unix

package engine_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ClickHouse/clickhouse-go/v2"

	"carom/schemas/service"
	"carom/schemas/warehouse/chtest"
	"carom/schemas/warehouse/engine"
)

// TestMistakes runs the command in this process: none of the mistakes gets as far as the engine.
func TestMistakes(t *testing.T) {
	folder := t.TempDir()
	write := func(name, text string) string {
		t.Helper()
		path := filepath.Join(folder, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	noLibrary, empty := write("libchdb.so", "not an ELF file"), write("empty", "")
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	data := filepath.Join(folder, "data")
	t.Setenv(engine.LibraryEnv, "")
	t.Chdir(folder)

	for _, tc := range []struct {
		name string
		args []string
		want string
	}{
		{"no path", nil, "--path is missing"},
		{"unknown flag", []string{"--pth", data}, "-pth"},
		{"argument", []string{"--path", data, "more"}, "unexpected argument"},
		{"library not found", []string{"--path", data}, "make engine"},
		{"library named but not there", []string{"--path", data, "--engine-lib", "/nonexistent/lib.so"}, "named by --engine-lib"},
		{"no library", []string{"--path", data, "--listen", "127.0.0.1:0", "--engine-lib", noLibrary}, "not a usable libchdb"},
		{"port in use", []string{"--path", data, "--listen", listener.Addr().String(), "--engine-lib", noLibrary}, "in use"},
		{"bad address", []string{"--path", data, "--listen", "nowhere", "--engine-lib", noLibrary}, "--listen"},
		{"user without a password", []string{"--path", data, "--user", "u"}, "--user needs --password-file"},
		{"password without a user", []string{"--path", data, "--password-file", empty}, "of no use without --user"},
		{"empty password", []string{"--path", data, "--user", "u", "--password-file", empty}, "the first line is empty"},
		{"tenant without a password", []string{"--path", data, "--tenant", "acme"}, "want TENANT=FILE"},
		{"tenant with an empty password", []string{"--path", data, "--tenant", "acme=" + empty}, "the first line is empty"},
		{"no name of a tenant", []string{"--path", data, "--tenant", "=" + empty}, "no name of a tenant"},
		{"a name twice", []string{"--path", data, "--tenant", "acme=" + noLibrary, "--user", "carom_tenant_acme", "--password-file", noLibrary}, "another flag does too"},
		{"too few connections", []string{"--path", data, "--listen", "127.0.0.1:0", "--connections", "2", "--engine-lib", noLibrary}, "at least 4"},
		{"log level", []string{"--path", data, "--log-level", "loud"}, "loud"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			err := engine.Command(t.Context(), tc.args, service.IO{Out: io.Discard, Err: io.Discard})
			if service.ExitStatus(err) != 2 || !strings.Contains(err.Error(), tc.want) || strings.Contains(err.Error(), "\n") {
				t.Errorf("error %v, want one line with %q and exit status 2", err, tc.want)
			}
		})
	}
}

func TestHelp(t *testing.T) {
	var out strings.Builder
	err := engine.Command(t.Context(), []string{"--help"}, service.IO{Out: &out, Err: io.Discard})
	if service.ExitStatus(err) != 0 || !strings.Contains(out.String(), "Example:") || !strings.Contains(out.String(), "-readonly-user") {
		t.Errorf("%v: %s", err, out.String())
	}
}

func TestFolderInUse(t *testing.T) {
	server := chtest.Start(t)
	library, err := engine.FindLibrary(os.Getenv(engine.LibraryEnv))
	if err != nil {
		library = os.Args[0] // the lock comes first
	}
	err = engine.Command(t.Context(), []string{"--path", server.Folder(), "--listen", "127.0.0.1:0", "--engine-lib", library},
		service.IO{Out: io.Discard, Err: io.Discard})
	if service.ExitStatus(err) != 2 || !strings.Contains(err.Error(), "is in use by process ") {
		t.Errorf("error %v, want one that names the process", err)
	}
}

func TestUser(t *testing.T) {
	password := filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(password, []byte("s3cret:/@\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	server := chtest.Start(t, "--user", "carom", "--password-file", password)
	as := func(name, password string) error {
		return server.Conn(t, func(o *clickhouse.Options) { o.Auth.Username, o.Auth.Password = name, password }).Ping(t.Context())
	}
	if err := as("carom", "s3cret:/@"); err != nil {
		t.Errorf("right password: %v", err)
	}
	for _, c := range [][2]string{{"carom", "wrong"}, {"carom", ""}, {"default", ""}, {"other", "s3cret:/@"}} {
		var exception *clickhouse.Exception
		if err := as(c[0], c[1]); !errors.As(err, &exception) || exception.Code != 516 {
			t.Errorf("as %q: %v, want code 516", c, err)
		}
	}
	got := send(t, http.MethodPost, server.URL(), strings.NewReader("SELECT 1"), "X-ClickHouse-User", "carom", "X-ClickHouse-Key", "s3cret:/@")
	if got.body != "1\n" {
		t.Errorf("by headers: %q", got.body)
	}
	if got := mustPost(t, server.URL()+"/?user=carom&password=s3cret%3A%2F%40", "SELECT 1"); got != "1\n" {
		t.Errorf("by URL: %q", got)
	}
}

func TestStopKillsWhatDoesNotEnd(t *testing.T) {
	server := chtest.Start(t, "--stop-timeout", "100ms")
	conn := server.Conn(t)
	ended := make(chan error, 1)
	go func() {
		ended <- conn.Exec(context.WithoutCancel(t.Context()), "SELECT count() FROM numbers(1000000000000) WHERE sipHash64(number) = 3")
	}()
	until(t, "the statement runs", func() bool { return running(t, conn, "numbers(1000000000000)") == 1 })
	if err := server.Stop(); err != nil {
		t.Errorf("the engine ended with %v", err)
	}
	if err := <-ended; err == nil {
		t.Error("the killed statement gave no error")
	}
}
