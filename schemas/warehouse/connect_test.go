package warehouse

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/ClickHouse/clickhouse-go/v2"

	"carom/schemas/service"
)

func TestParseURL(t *testing.T) {
	password := filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(password, []byte("s3cret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	type want struct {
		addr, database, user, password string
		protocol                       clickhouse.Protocol
		tls                            bool
	}
	for _, tc := range []struct {
		url  string
		opt  Options
		want want
	}{
		{"http://ch:8124/mail", Options{}, want{"ch:8124", "mail", "", "", clickhouse.HTTP, false}},
		{"http://ch", Options{}, want{"ch:8123", "carom", "", "", clickhouse.HTTP, false}},
		{"https://u:p@ch/", Options{}, want{"ch:8443", "carom", "u", "p", clickhouse.HTTP, true}},
		{"clickhouse://ch/mail", Options{}, want{"ch:9000", "mail", "", "", clickhouse.Native, false}},
		{"clickhouse://ch/mail?secure=true", Options{}, want{"ch:9440", "mail", "", "", clickhouse.Native, true}},
		{"clickhouse://[::1]:9001", Options{}, want{"[::1]:9001", "carom", "", "", clickhouse.Native, false}},
		{"clickhouse://u:p@a,b:9001,[::1]/mail?secure=true&server_name=ch", Options{}, want{"a:9440 b:9001 [::1]:9440", "mail", "u", "p", clickhouse.Native, true}},
		{"http://u:p@ch", Options{User: "v", Password: "q"}, want{"ch:8123", "carom", "v", "q", clickhouse.HTTP, false}},
		{"http://ch", Options{User: "v", Password: "q", PasswordFile: password}, want{"ch:8123", "carom", "v", "s3cret", clickhouse.HTTP, false}},
	} {
		t.Run(tc.url, func(t *testing.T) {
			opt, err := parse(tc.url, tc.opt)
			if err != nil {
				t.Fatal(err)
			}
			got := want{strings.Join(opt.Addr, " "), opt.Auth.Database, opt.Auth.Username, opt.Auth.Password, opt.Protocol, opt.TLS != nil}
			if got != tc.want {
				t.Errorf("parse(%q) = %+v, want %+v", tc.url, got, tc.want)
			}
		})
	}
}

// The environment stands between what the options and what the URL say.
func TestLoginFromEnvironment(t *testing.T) {
	t.Setenv(userEnv, "env")
	t.Setenv(passwordEnv, "hunter2")
	for _, tc := range []struct {
		opt            Options
		user, password string
	}{
		{Options{}, "env", "hunter2"},
		{Options{User: "v", Password: "q"}, "v", "q"},
	} {
		opt, err := parse("http://u:p@ch", tc.opt)
		if err != nil {
			t.Fatal(err)
		}
		if opt.Auth.Username != tc.user || opt.Auth.Password != tc.password {
			t.Errorf("with %+v: %s %s, want %s %s", tc.opt, opt.Auth.Username, opt.Auth.Password, tc.user, tc.password)
		}
	}
}

func TestFlagRefusesPassword(t *testing.T) {
	flags := service.NewFlags("test", "test", service.IO{})
	rawURL, _ := Flags(flags)
	err := flags.Parse([]string{"--url", "clickhouse://u:hunter2@a,b/carom"})
	if err == nil || !strings.Contains(err.Error(), passwordEnv) {
		t.Errorf("a password in --url: %v, want it refused", err)
	}
	if err := flags.Parse([]string{"--url", "clickhouse://u@a,b/carom"}); err != nil || *rawURL != "clickhouse://u@a,b/carom" {
		t.Errorf("a user in --url: %q, %v", *rawURL, err)
	}
}

// A machine that is gone swallows packets: it must not cost the time that the next address needs.
// A server that answers with an exception is asked no further.
func TestInOrder(t *testing.T) {
	exception := &clickhouse.Exception{Code: codeAuthenticationFailed}
	for _, tc := range []struct {
		name   string
		answer map[string]error // of an address; silence without
		asked  string
		works  bool
	}{
		{"the first is silent", map[string]error{"b": nil, "c": nil}, "a b", true},
		{"all are silent", nil, "a b c", false},
		{"the first refuses the login", map[string]error{"a": exception, "b": nil}, "a", false},
		{"the first is overloaded", map[string]error{"a": &clickhouse.Exception{Code: codeTooManyQueries}, "b": nil}, "a b", true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				opt, err := parse("clickhouse://a,b,c", Options{})
				if err != nil {
					t.Fatal(err)
				}
				ctx, cancel := context.WithTimeout(t.Context(), opt.DialTimeout) // as clickhouse-go does
				defer cancel()
				var asked []string
				_, err = inOrder(ctx, 1, opt, func(ctx context.Context, address string, _ *clickhouse.Options) (clickhouse.DialResult, error) {
					host, _, _ := strings.Cut(address, ":")
					asked = append(asked, host)
					if err, ok := tc.answer[host]; ok {
						return clickhouse.DialResult{}, err
					}
					<-ctx.Done()
					return clickhouse.DialResult{}, ctx.Err()
				})
				if got := strings.Join(asked, " "); got != tc.asked || (err == nil) != tc.works {
					t.Errorf("asked %s, error %v, want %s, success is %v", got, err, tc.asked, tc.works)
				}
				if !tc.works && err != nil && !strings.Contains(Explain("clickhouse://a,b,c", Options{}, err).Error(), "a:9000, b:9000, c:9000") {
					t.Errorf("the error does not name the addresses: %v", Explain("clickhouse://a,b,c", Options{}, err))
				}
			})
		})
	}
}

func TestParseURLMistakes(t *testing.T) {
	for _, tc := range []struct{ name, url, want string }{
		{"no scheme", "localhost:8123", "want http://"},
		{"wrong scheme", "ftp://ch", "want http://"},
		{"no host", "http:///carom", "no host"},
		{"unknown parameter", "http://ch/carom?sekure=true", `unknown parameter "sekure"`},
		{"secure over HTTP", "http://ch/carom?secure=true", "for clickhouse:// only"},
		{"secure of a strange kind", "clickhouse://ch?secure=maybe", "secure is true or false"},
		{"an authority without TLS", "clickhouse://ch?ca_file=x", "no use without TLS"},
		{"no authority", "https://ch?ca_file=/nowhere/ca.pem", "ca_file"},
		{"an authority that is none", "https://ch?ca_file=connect_test.go", "no certificate"},
		{"a certificate without its key", "https://ch?cert_file=a", "belong together"},
		{"an empty name", "https://ch?server_name=", "server_name is empty"},
		{"an empty address", "clickhouse://a,,b", "has no host, or an empty one"},
		{"a bad second port", "clickhouse://a:9000,b:x", "invalid port"},
		{"too many addresses", "clickhouse://a" + strings.Repeat(",a", 16), "too many"},
		{"two folders", "http://ch/a/b", "no name of a database"},
		{"a quote in the name", "http://ch/a`b", "no name of a database"},
		{"not a URL", "http://ch:x", "invalid port"},
		{"password is not shown", "ftp://u:hunter2@ch", "u:xxxxx@"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := Dial(tc.url, Options{})
			if _, ok := errors.AsType[*service.ConfigError](err); !ok || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("Dial(%q): %v, want a ConfigError with %q", tc.url, err, tc.want)
			}
			if err != nil && strings.Contains(err.Error(), "hunter2") {
				t.Errorf("the error shows the password: %v", err)
			}
		})
	}
	if _, err := Dial("http://ch", Options{PasswordFile: filepath.Join(t.TempDir(), "none")}); err == nil {
		t.Error("an unreadable password file is no error")
	}
}

// answering returns the URL of a server that answers every query with an exception.
func answering(t *testing.T, status int, code, text string) string {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("X-ClickHouse-Exception-Code", code)
		http.Error(w, text, status)
	}))
	t.Cleanup(server.Close)
	return server.URL
}

func TestOpenErrorsAreOneClearLine(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	refusing := listener.Addr().String()
	if err := listener.Close(); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name, url string
		want      []string
		config    bool
	}{
		{"refused over HTTP", "http://" + refusing, []string{refusing, "refuses the connection"}, false},
		{"refused natively", "clickhouse://" + refusing, []string{refusing, "refuses the connection"}, false},
		{
			"login", answering(t, 403, "516", "Code: 516. DB::Exception: default: Authentication failed. (AUTHENTICATION_FAILED) (version 26.5.1.1)"),
			[]string{"refuses user", "--password-file"},
			true,
		},
		{
			"database", answering(t, 404, "81", "Code: 81. DB::Exception: Database carom does not exist. (UNKNOWN_DATABASE) (version 26.5.1.1)"),
			[]string{`no database "carom"`, "carom schema apply --url"},
			true,
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := Open(context.Background(), tc.url, Options{User: "u"})
			if err == nil {
				t.Fatal("Open succeeded")
			}
			_, config := errors.AsType[*service.ConfigError](err)
			if config != tc.config || strings.Contains(err.Error(), "\n") {
				t.Errorf("Open(%s): %v, want one line, ConfigError is %v", tc.url, err, tc.config)
			}
			for _, want := range tc.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("Open(%s): %v, want %q in it", tc.url, err, want)
				}
			}
		})
	}
}
