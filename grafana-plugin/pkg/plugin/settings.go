package plugin

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/grafana/grafana-plugin-sdk-go/backend"
)

// Settings are what the administrator of Grafana has set.
type Settings struct {
	Address        string `json:"address"`  // HOST:PORT
	Protocol       string `json:"protocol"` // native or http
	TLS            bool   `json:"tls"`
	TLSSkipVerify  bool   `json:"tlsSkipVerify"`
	TLSCACert      string `json:"tlsCaCert"` // PEM
	User           string `json:"user"`
	Tenant         string `json:"tenant"` // that the user is kept to by ClickHouse; empty: to none
	Database       string `json:"database"`
	MaxRows        int    `json:"maxRows"`
	TimeoutSeconds int    `json:"timeoutSeconds"`

	password string
}

// Bounds and defaults of the settings. The role carom_grafana allows a million rows and 60 seconds.
const (
	defaultMaxRows = 50_000
	mostRows       = 1_000_000
	defaultTimeout = 30
	mostTimeout    = 60
	protocolNative = "native"
	protocolHTTP   = "http"
)

// parseSettings reads and checks the settings. All mistakes are in the error.
func parseSettings(s backend.DataSourceInstanceSettings) (Settings, error) {
	var out Settings
	if len(s.JSONData) > 0 {
		if err := json.Unmarshal(s.JSONData, &out); err != nil {
			return out, fmt.Errorf("the settings of the data source are no JSON of the expected form: %w", err)
		}
	}
	out.password = s.DecryptedSecureJSONData["password"]
	out.Address = strings.TrimSpace(out.Address)
	if out.Protocol == "" {
		out.Protocol = protocolNative
	}
	if out.Database == "" {
		out.Database = "carom"
	}
	if out.MaxRows == 0 {
		out.MaxRows = defaultMaxRows
	}
	if out.TimeoutSeconds == 0 {
		out.TimeoutSeconds = defaultTimeout
	}
	var mistakes []error
	if out.Address == "" {
		mistakes = append(mistakes, errors.New("set the address of ClickHouse, such as clickhouse.example:9000"))
	} else if out.Protocol != protocolNative && out.Protocol != protocolHTTP {
		mistakes = append(mistakes, fmt.Errorf("protocol %q: want native or http", out.Protocol))
	} else if strings.Contains(out.Address, "://") {
		mistakes = append(mistakes, fmt.Errorf("address %q: want HOST:PORT; the protocol is a setting of its own", withoutLogin(out.Address)))
	} else if strings.ContainsAny(out.Address, "@/") { // it may hold a password, so it is not shown
		mistakes = append(mistakes, errors.New("address: want HOST:PORT; user, password and database are settings of their own"))
	} else if _, _, err := net.SplitHostPort(out.Address); err != nil {
		out.Address = net.JoinHostPort(strings.Trim(out.Address, "[]"), out.defaultPort())
	}
	if out.MaxRows < 1 || out.MaxRows > mostRows {
		mistakes = append(mistakes, fmt.Errorf("row limit %d: want 1 to %d", out.MaxRows, mostRows))
	}
	if out.TimeoutSeconds < 1 || out.TimeoutSeconds > mostTimeout {
		mistakes = append(mistakes, fmt.Errorf("time limit %d s: want 1 to %d", out.TimeoutSeconds, mostTimeout))
	}
	if out.TLSCACert != "" && !out.TLS {
		mistakes = append(mistakes, errors.New("a certificate authority is of no use without TLS: switch TLS on"))
	}
	return out, errors.Join(mistakes...)
}

// withoutLogin returns an address as it may be shown.
func withoutLogin(address string) string {
	scheme, rest, _ := strings.Cut(address, "://")
	if at := strings.LastIndexByte(rest, '@'); at >= 0 {
		rest = rest[at+1:]
	}
	return scheme + "://" + rest
}

func (s Settings) defaultPort() string {
	switch {
	case s.Protocol == protocolHTTP && s.TLS:
		return "8443"
	case s.Protocol == protocolHTTP:
		return "8123"
	case s.TLS:
		return "9440"
	}
	return "9000"
}

// user is who ClickHouse takes the data source for.
func (s Settings) user() string {
	if s.User == "" {
		return "default"
	}
	return s.User
}

// timeout is how long one statement may take.
func (s Settings) timeout() time.Duration { return time.Duration(s.TimeoutSeconds) * time.Second }

const (
	dialTimeout = 5 * time.Second
	// readSlack is how much longer than a statement may take the client waits for its answer.
	readSlack = 5 * time.Second
	// maxParallel bounds the memory of answers that are read at the same time, and is below what the
	// role carom_grafana may run at once. Further statements wait.
	maxParallel = 6
)

// options returns what the client is opened with.
func (s Settings) options() (*clickhouse.Options, error) {
	o := &clickhouse.Options{
		Protocol: clickhouse.Native, Addr: []string{s.Address},
		Auth:        clickhouse.Auth{Database: s.Database, Username: s.User, Password: s.password},
		Compression: &clickhouse.Compression{Method: clickhouse.CompressionLZ4},
		DialTimeout: dialTimeout, ReadTimeout: s.timeout() + readSlack,
		MaxOpenConns: maxParallel, MaxIdleConns: maxParallel, ConnMaxLifetime: 10 * time.Minute,
	}
	if s.Protocol == protocolHTTP {
		o.Protocol = clickhouse.HTTP
	}
	if !s.TLS {
		return o, nil
	}
	host, _, err := net.SplitHostPort(s.Address)
	if err != nil {
		return nil, fmt.Errorf("address %q: want HOST:PORT", s.Address)
	}
	o.TLS = &tls.Config{MinVersion: tls.VersionTLS12, ServerName: host, InsecureSkipVerify: s.TLSSkipVerify} //nolint:gosec // the administrator's choice
	if s.TLSCACert != "" {
		o.TLS.RootCAs = x509.NewCertPool()
		if !o.TLS.RootCAs.AppendCertsFromPEM([]byte(s.TLSCACert)) {
			return nil, errors.New("the certificate authority is no certificate in PEM form")
		}
	}
	return o, nil
}
