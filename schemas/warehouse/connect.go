package warehouse

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/url"
	"os"
	"slices"
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
	// dialTimeout bounds one attempt to reach one address, login included: a machine that is gone
	// does not answer at all, and the next address must get its turn.
	dialTimeout = 5 * time.Second
	// readTimeout is how long an answer may keep silent; the caller's context bounds the whole.
	readTimeout = 5 * time.Minute
	// connectionLife is how long a connection to another address than the first is kept at most
	// before the first is tried again.
	connectionLife = 10 * time.Minute
	// maxAddresses bounds the waiting for a cluster that is gone.
	maxAddresses = 16
)

// Variables of the environment that hold a login. They are visible to the user of the process only,
// unlike its arguments.
const (
	userEnv     = "CAROM_CLICKHOUSE_USER"
	passwordEnv = "CAROM_CLICKHOUSE_PASSWORD" //nolint:gosec // the name, not the password
)

// Codes of ClickHouse's exceptions that this package tells apart
// (src/Common/ErrorCodes.cpp of ClickHouse).
const (
	codeUnknownDatabase      = 81
	codeTooManyQueries       = 202
	codeUnknownTable         = 60
	codeUnknownUser          = 192
	codeWrongPassword        = 193
	codeRequiredPassword     = 194
	codeAuthenticationFailed = 516
)

// Options say how to log in. What they leave empty comes from the variables CAROM_CLICKHOUSE_USER
// and CAROM_CLICKHOUSE_PASSWORD, then from the URL; else it is ClickHouse's default user without a
// password.
type Options struct {
	User         string
	Password     string
	PasswordFile string // file whose first line is the password; overrides Password
}

// Flags adds --url, --user and --password-file to f and returns where their values will be.
func Flags(f *service.Flags) (rawURL *string, o *Options) {
	o = &Options{}
	u := urlFlag("http://127.0.0.1:8123/" + DefaultDatabase)
	f.Var(&u, "url", "`address` of ClickHouse: http://, https:// or clickhouse://HOST:PORT[,HOST:PORT...]/DATABASE; "+
		"over TLS with ?secure=true&ca_file=FILE&cert_file=FILE&key_file=FILE&server_name=NAME, each as needed")
	f.StringVar(&o.User, "user", "", "`name` of the ClickHouse user; $"+userEnv+" does as well")
	f.StringVar(&o.PasswordFile, "password-file", "", "`file` with the password of the user; $"+passwordEnv+" holds the password itself")
	return (*string)(&u), o
}

// urlFlag refuses a password, which every user of the machine could read in the list of processes.
type urlFlag string

func (u *urlFlag) String() string { return string(*u) }

// Set implements flag.Value.
func (u *urlFlag) Set(s string) error {
	if split, err := split(s); err == nil {
		if _, has := split.User.Password(); has {
			return fmt.Errorf("a password in it would show in the list of processes: use --password-file or $%s", passwordEnv)
		}
	}
	*u = urlFlag(s)
	return nil
}

// Dial returns connections to the ClickHouse at rawURL and opens none: the first query does.
//
// The URL is http://, https:// or clickhouse:// (the native protocol), one or more HOST:PORT with
// commas between them (port 8123, 8443, 9000 or, natively over TLS, 9440 if there is none), and the
// database as its path. The addresses are tried in this order whenever a connection is opened: as
// long as the first answers, everything goes there, so that a process reads what it wrote. Several
// addresses must be replicas of each other, or the nodes of a cluster with carom's tables in it.
//
// Parameters: secure=true (TLS, for clickhouse://), ca_file (authorities instead of the system's),
// cert_file and key_file (of the client), server_name (expected in the certificate instead of HOST).
// A mistake in the URL or an unreadable file is a service.ConfigError.
func Dial(rawURL string, o Options) (driver.Conn, error) {
	opt, err := parse(rawURL, o)
	if err != nil {
		return nil, err
	}
	return open(opt)
}

// clusterSettings are what every statement needs where the tables are split over shards; one server
// takes no notice of them. An insert is confirmed when its shard has stored it, not when it waits
// in a queue of the server that took it (insertSettings say so again); IN (SELECT ...) means all
// shards on each of them. The embedded engine has HTTP only and no shards; who reaches a cluster by
// HTTP has the settings from the profiles of carom schema roles.
var clusterSettings = clickhouse.Settings{
	"insert_distributed_sync":  1,
	"distributed_product_mode": "global",
}

// ClientOptions returns what Dial would open, for a caller that changes it first: clickhouse.Open
// takes it. Errors are those of Dial.
func ClientOptions(rawURL string, o Options) (*clickhouse.Options, error) { return parse(rawURL, o) }

// InDatabase returns rawURL with another database.
func InDatabase(rawURL, database string) (string, error) {
	u, err := split(rawURL)
	if err != nil {
		return "", service.Configf("ClickHouse URL %q is no URL", withoutPassword(rawURL))
	}
	u.Path = "/" + database
	return u.String(), nil
}

func open(opt *clickhouse.Options) (driver.Conn, error) {
	conn, err := clickhouse.Open(opt)
	if err != nil {
		return nil, service.Configf("ClickHouse at %s: %w", addresses(opt), err)
	}
	return conn, nil
}

// inOrder tries the addresses one after another, each for dialTimeout. An exception of ClickHouse
// other than that it is overloaded is an answer, not a reason to try the next: a refused login must
// not lock the user out of every replica.
func inOrder(ctx context.Context, _ int, opt *clickhouse.Options, dial clickhouse.Dial) (clickhouse.DialResult, error) {
	one := *opt
	one.DialTimeout = dialTimeout
	var failures []error
	for _, address := range opt.Addr {
		result, err := func() (clickhouse.DialResult, error) {
			ctx, cancel := context.WithTimeout(ctx, dialTimeout)
			defer cancel()
			return dial(ctx, address, &one)
		}()
		if err == nil {
			return result, nil
		}
		if len(opt.Addr) > 1 {
			err = fmt.Errorf("%s: %w", address, err)
		}
		if c := code(err); c != 0 && c != codeTooManyQueries {
			return result, err
		}
		failures = append(failures, err)
		if ctx.Err() != nil {
			break // the caller does not wait for the others
		}
	}
	return clickhouse.DialResult{}, errors.Join(failures...)
}

// addresses names all of them for a message.
func addresses(opt *clickhouse.Options) string { return strings.Join(opt.Addr, ", ") }

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
	at := addresses(opt)
	switch code(cause) {
	case codeUnknownDatabase:
		return service.Configf("ClickHouse at %s has no database %q: create it with carom schema apply --url %s",
			at, opt.Auth.Database, withoutPassword(rawURL))
	case codeUnknownUser, codeWrongPassword, codeRequiredPassword, codeAuthenticationFailed:
		return service.Configf("ClickHouse at %s refuses user %q: check --user and --password-file", at, cmp.Or(opt.Auth.Username, "default"))
	}
	if len(opt.Addr) == 1 && errors.Is(cause, syscall.ECONNREFUSED) {
		return fmt.Errorf("ClickHouse at %s refuses the connection: is it running there? (%w)", at, syscall.ECONNREFUSED)
	}
	return fmt.Errorf("reach ClickHouse at %s: %w", at, oneLineError{cause})
}

// code returns the code of ClickHouse's exception in err, or 0 if there is none.
func code(err error) int32 {
	if e, ok := errors.AsType[*clickhouse.Exception](err); ok {
		return e.Code
	}
	return 0
}

// oneLineError shows the failures of several addresses in one line.
type oneLineError struct{ error }

func (e oneLineError) Error() string { return strings.ReplaceAll(e.error.Error(), "\n", "; ") }

// Unwrap returns the cause.
func (e oneLineError) Unwrap() error { return e.error }

// split is url.Parse for a URL with several hosts, which it refuses. Host of the result holds all
// of them, as they were written.
func split(rawURL string) (*url.URL, error) {
	scheme, rest, _ := strings.Cut(rawURL, "://")
	end := strings.IndexAny(rest, "/?#")
	if end < 0 {
		end = len(rest)
	}
	login := strings.LastIndexByte(rest[:end], '@') + 1
	hosts := strings.Split(rest[login:end], ",")
	u, err := url.Parse(scheme + "://" + rest[:login] + hosts[0] + rest[end:])
	if len(hosts) == 1 || err != nil {
		return u, err
	}
	for _, host := range hosts[1:] {
		if _, err := url.Parse("http://" + host); err != nil {
			return nil, err
		}
	}
	u.Host = strings.Join(hosts, ",")
	return u, nil
}

func parse(rawURL string, o Options) (*clickhouse.Options, error) {
	u, err := split(rawURL)
	if err != nil {
		if e, ok := errors.AsType[*url.Error](err); ok {
			err = e.Err // the error quotes the URL, and with it a password
		}
		return nil, service.Configf("ClickHouse URL: %w", err)
	}
	shown := withoutPassword(rawURL)
	opt := &clickhouse.Options{
		Compression:     &clickhouse.Compression{Method: clickhouse.CompressionLZ4},
		ReadTimeout:     readTimeout,
		ConnMaxLifetime: connectionLife,
		DialStrategy:    inOrder,
	}
	query := u.Query()
	var port string
	secure := false
	switch u.Scheme {
	case "http":
		opt.Protocol, port = clickhouse.HTTP, "8123"
	case "https":
		opt.Protocol, port, secure = clickhouse.HTTP, "8443", true
	case "clickhouse":
		opt.Protocol, port = clickhouse.Native, "9000"
		opt.Settings = clusterSettings
		if query.Get("secure") == "true" {
			port, secure = "9440", true
		}
	default:
		return nil, service.Configf("ClickHouse URL %q: want http://, https:// or clickhouse://HOST:PORT/DATABASE", shown)
	}
	for _, name := range slices.Sorted(maps.Keys(query)) {
		switch value := query.Get(name); {
		case !slices.Contains(parameters, name):
			return nil, service.Configf("ClickHouse URL %q: unknown parameter %q; the user and the password go into --user and --password-file", shown, name)
		case name == "secure" && (u.Scheme != "clickhouse" || value != "true" && value != "false"):
			return nil, service.Configf("ClickHouse URL %q: secure is true or false, and for clickhouse:// only", shown)
		case name != "secure" && !secure:
			return nil, service.Configf("ClickHouse URL %q: %s is of no use without TLS: write https://, or clickhouse:// with secure=true", shown, name)
		case value == "":
			return nil, service.Configf("ClickHouse URL %q: %s is empty", shown, name)
		}
	}
	for host := range strings.SplitSeq(u.Host, ",") {
		one := url.URL{Host: host}
		if one.Hostname() == "" {
			return nil, service.Configf("ClickHouse URL %q has no host, or an empty one", shown)
		}
		opt.Addr = append(opt.Addr, net.JoinHostPort(one.Hostname(), cmp.Or(one.Port(), port)))
	}
	if len(opt.Addr) > maxAddresses {
		return nil, service.Configf("ClickHouse URL %q: %d addresses are too many, want %d at most", shown, len(opt.Addr), maxAddresses)
	}
	opt.DialTimeout = dialTimeout * time.Duration(len(opt.Addr)) // of all of them, see inOrder
	if secure {
		if opt.TLS, err = tlsOf(query); err != nil {
			return nil, service.Configf("ClickHouse URL %q: %w", shown, err)
		}
	}

	opt.Auth.Database = cmp.Or(strings.Trim(u.Path, "/"), DefaultDatabase)
	if strings.ContainsAny(opt.Auth.Database, "/`\"'\\") {
		return nil, service.Configf("ClickHouse URL %q: %q is no name of a database", shown, opt.Auth.Database)
	}
	password, _ := u.User.Password()
	opt.Auth.Username = cmp.Or(o.User, os.Getenv(userEnv), u.User.Username())
	opt.Auth.Password = cmp.Or(o.Password, os.Getenv(passwordEnv), password)
	if o.PasswordFile != "" {
		if opt.Auth.Password, err = FirstLine(o.PasswordFile); err != nil {
			return nil, service.Configf("password file: %w", err)
		}
	}
	return opt, nil
}

// parameters are what a URL may say behind its path.
var parameters = []string{"secure", "ca_file", "cert_file", "key_file", "server_name"}

// tlsOf reads the files that the parameters name.
func tlsOf(query url.Values) (*tls.Config, error) {
	c := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: query.Get("server_name")}
	if file := query.Get("ca_file"); file != "" {
		text, err := os.ReadFile(file) //nolint:gosec // the operator names it
		if err != nil {
			return nil, fmt.Errorf("ca_file: %w", err)
		}
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(text) {
			return nil, fmt.Errorf("ca_file %s holds no certificate in PEM form", file)
		}
	}
	cert, key := query.Get("cert_file"), query.Get("key_file")
	if (cert == "") != (key == "") {
		return nil, errors.New("cert_file and key_file belong together")
	}
	if cert != "" {
		pair, err := tls.LoadX509KeyPair(cert, key)
		if err != nil {
			return nil, fmt.Errorf("cert_file and key_file: %w", err)
		}
		c.Certificates = []tls.Certificate{pair}
	}
	return c, nil
}

// FirstLine returns the first line of a file without its end.
func FirstLine(file string) (string, error) {
	text, err := os.ReadFile(file) //nolint:gosec // the operator names it
	if err != nil {
		return "", err
	}
	line, _, _ := strings.Cut(string(text), "\n")
	return strings.TrimSuffix(line, "\r"), nil
}

// withoutPassword returns rawURL as it may be shown.
func withoutPassword(rawURL string) string {
	u, err := split(rawURL)
	if err != nil {
		return "(unreadable)"
	}
	u.RawQuery = "" // people put a password there too
	return u.Redacted()
}
