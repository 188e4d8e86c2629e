package warehouse

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"

	"carom/schemas/service"
)

// DefaultDatabase is the database of a URL that names none.
const DefaultDatabase = "carom"

const (
	dialTimeout = 5 * time.Second
	// readTimeout is how long an answer may keep silent; the caller's context bounds the whole.
	readTimeout = 5 * time.Minute
)

// Codes of ClickHouse's exceptions that this package tells apart
// (src/Common/ErrorCodes.cpp of ClickHouse).
const (
	codeUnknownDatabase      = 81
	codeUnknownTable         = 60
	codeUnknownUser          = 192
	codeWrongPassword        = 193
	codeRequiredPassword     = 194
	codeAuthenticationFailed = 516
)

// Options say how to log in. Their zero value is the user in the URL, or ClickHouse's default user
// without a password.
type Options struct {
	User         string // overrides the user in the URL
	Password     string // overrides the password in the URL
	PasswordFile string // file whose first line is the password; overrides Password
}

// Flags adds --url, --user and --password-file to f and returns where their values will be.
func Flags(f *service.Flags) (rawURL *string, o *Options) {
	o = &Options{}
	rawURL = f.String("url", "http://127.0.0.1:8123/"+DefaultDatabase,
		"`address` of ClickHouse: http://, https:// or clickhouse://HOST:PORT/DATABASE")
	f.StringVar(&o.User, "user", "", "`name` of the ClickHouse user")
	f.StringVar(&o.PasswordFile, "password-file", "", "`file` with the password of the user")
	return rawURL, o
}

// Dial returns connections to the ClickHouse at rawURL and opens none: the first query does.
// The URL is http://, https:// or clickhouse:// (the native protocol; with ?secure=true over TLS),
// host and port (8123, 8443, 9000 or 9440 if there is none), and the database as its path.
// A mistake in the URL or an unreadable password file is a service.ConfigError.
func Dial(rawURL string, o Options) (driver.Conn, error) {
	opt, err := parse(rawURL, o)
	if err != nil {
		return nil, err
	}
	conn, err := clickhouse.Open(opt)
	if err != nil {
		return nil, service.Configf("ClickHouse at %s: %w", opt.Addr[0], err)
	}
	return conn, nil
}

// Open is Dial and makes sure that ClickHouse answers. Its error is one line that names the
// address and, where there is one, the way out; a refused login and an unknown database are a
// service.ConfigError.
func Open(ctx context.Context, rawURL string, o Options) (driver.Conn, error) {
	conn, err := Dial(rawURL, o)
	if err != nil {
		return nil, err
	}
	if err := conn.Ping(ctx); err != nil {
		_ = conn.Close() // nothing was sent
		return nil, Explain(rawURL, o, err)
	}
	return conn, nil
}

// Explain makes one clear line of the error of a first contact, which names the address and, where
// there is one, the way out.
func Explain(rawURL string, o Options, cause error) error {
	opt, err := parse(rawURL, o)
	if err != nil {
		return err
	}
	at := opt.Addr[0]
	switch code(cause) {
	case codeUnknownDatabase:
		return service.Configf("ClickHouse at %s has no database %q: create it with carom schema apply --url %s",
			at, opt.Auth.Database, withoutPassword(rawURL))
	case codeUnknownUser, codeWrongPassword, codeRequiredPassword, codeAuthenticationFailed:
		return service.Configf("ClickHouse at %s refuses user %q: check --user and --password-file", at, cmp.Or(opt.Auth.Username, "default"))
	}
	if errors.Is(cause, syscall.ECONNREFUSED) {
		return fmt.Errorf("ClickHouse at %s refuses the connection: is it running there? (%w)", at, syscall.ECONNREFUSED)
	}
	return fmt.Errorf("reach ClickHouse at %s: %w", at, cause)
}

// code returns the code of ClickHouse's exception in err, or 0 if there is none.
func code(err error) int32 {
	if e, ok := errors.AsType[*clickhouse.Exception](err); ok {
		return e.Code
	}
	return 0
}

func parse(rawURL string, o Options) (*clickhouse.Options, error) {
	u, err := url.Parse(rawURL)
	if err != nil {
		if e, ok := errors.AsType[*url.Error](err); ok {
			err = e.Err // the error quotes the URL, and with it a password
		}
		return nil, service.Configf("ClickHouse URL: %w", err)
	}
	shown := withoutPassword(rawURL)
	opt := &clickhouse.Options{
		Compression: &clickhouse.Compression{Method: clickhouse.CompressionLZ4},
		DialTimeout: dialTimeout,
		ReadTimeout: readTimeout,
	}
	var port string
	secure := false
	switch u.Scheme {
	case "http":
		opt.Protocol, port = clickhouse.HTTP, "8123"
	case "https":
		opt.Protocol, port, secure = clickhouse.HTTP, "8443", true
	case "clickhouse":
		opt.Protocol, port = clickhouse.Native, "9000"
		if u.Query().Get("secure") == "true" {
			port, secure = "9440", true
		}
	default:
		return nil, service.Configf("ClickHouse URL %q: want http://, https:// or clickhouse://HOST:PORT/DATABASE", shown)
	}
	if u.Hostname() == "" {
		return nil, service.Configf("ClickHouse URL %q has no host", shown)
	}
	for name, values := range u.Query() {
		if name != "secure" || u.Scheme != "clickhouse" || values[0] != "true" && values[0] != "false" {
			return nil, service.Configf("ClickHouse URL %q: unknown parameter %q; the user and the password go into --user and --password-file", shown, name)
		}
	}
	if u.Port() != "" {
		port = u.Port()
	}
	if secure {
		opt.TLS = &tls.Config{MinVersion: tls.VersionTLS12}
	}
	opt.Addr = []string{net.JoinHostPort(u.Hostname(), port)}

	opt.Auth = clickhouse.Auth{Database: strings.Trim(u.Path, "/"), Username: u.User.Username()}
	opt.Auth.Password, _ = u.User.Password()
	if opt.Auth.Database == "" {
		opt.Auth.Database = DefaultDatabase
	}
	if strings.ContainsAny(opt.Auth.Database, "/`\"'\\") {
		return nil, service.Configf("ClickHouse URL %q: %q is no name of a database", shown, opt.Auth.Database)
	}
	if o.User != "" {
		opt.Auth.Username = o.User
	}
	if o.Password != "" {
		opt.Auth.Password = o.Password
	}
	if o.PasswordFile != "" {
		text, err := os.ReadFile(o.PasswordFile)
		if err != nil {
			return nil, service.Configf("password file: %w", err)
		}
		opt.Auth.Password, _, _ = strings.Cut(string(text), "\n")
		opt.Auth.Password = strings.TrimSuffix(opt.Auth.Password, "\r")
	}
	return opt, nil
}

// withoutPassword returns rawURL as it may be shown.
func withoutPassword(rawURL string) string {
	u, err := url.Parse(rawURL)
	if err != nil {
		return "(unreadable)"
	}
	u.RawQuery = "" // people put a password there too
	return u.Redacted()
}
