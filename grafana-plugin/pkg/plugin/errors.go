package plugin

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"regexp"
	"strings"
	"syscall"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/grafana/grafana-plugin-sdk-go/backend"
)

// Codes of ClickHouse's exceptions (src/Common/ErrorCodes.cpp of ClickHouse).
const (
	codeUnknownTable     = 60
	codeSyntax           = 62
	codeUnknownDatabase  = 81
	codeUnknownSetting   = 115
	codeTooManyRows      = 158
	codeTimeout          = 159
	codeReadonly         = 164
	codeUnknownUser      = 192
	codeWrongPassword    = 193
	codeRequiredPassword = 194
	codeTooManyQueries   = 202
	codeMemory           = 241
	codeTooManyResults   = 396
	codeRegexp           = 427
	codeConstraint       = 452
	codeAccessDenied     = 497
	codeAuthentication   = 516
)

// errTableMissing is what an error about a table that does not exist wraps.
var errTableMissing = errors.New("a table is missing")

// maxMessage is how long a message of ClickHouse may be; it repeats the query.
const maxMessage = 1200

// explain makes a sentence of what went wrong that says what to do, as an error that Grafana counts as
// the database's. Its text holds no password.
func (c *client) explain(err error) error {
	at := c.settings.Address
	say := func(format string, args ...any) error {
		return backend.DownstreamError(redacted(fmt.Errorf(format, args...), c.settings.password))
	}
	if strings.Contains(err.Error(), "AggregateFunction(") && strings.Contains(err.Error(), "unsupported column type") {
		return say("the query returns states of aggregate functions, which cannot be shown: finish them, as quantilesBFloat16Merge(0.5, 0.9, 0.99)(to_deliver) does")
	}
	if e, ok := errors.AsType[*clickhouse.Exception](err); ok {
		message := clean(e.Message)
		switch e.Code {
		case codeUnknownTable:
			return say("%w in the database %s (%s). If it is one of carom's, run carom schema apply", errTableMissing, c.settings.Database, message)
		case codeUnknownDatabase:
			return say("ClickHouse at %s has no database %s: set another one in the data source, or create it with carom schema apply", at, c.settings.Database)
		case codeUnknownUser, codeWrongPassword, codeRequiredPassword, codeAuthentication:
			return say("ClickHouse at %s refuses the user %q: check user and password of the data source", at, c.settings.user())
		case codeTimeout:
			return say("the query took longer than %d s: choose a shorter time range or fewer breakdowns, or raise the time limit of the data source", c.settings.TimeoutSeconds)
		case codeMemory:
			return say("the query needs more memory than ClickHouse allows: choose a shorter time range or fewer breakdowns (%s)", message)
		case codeTooManyRows, codeTooManyResults:
			return say("the query has too many rows: add a LIMIT, a filter or a shorter time range (%s)", message)
		case codeTooManyQueries:
			return say("ClickHouse at %s has too many queries at once: try again, or let the dashboard refresh less often", at)
		case codeReadonly, codeAccessDenied:
			return say("the user %q may not do that: %s", c.settings.user(), message)
		case codeRegexp:
			message, _, _ = strings.Cut(message, " Look at ")
			return say("a filter has no regular expression that ClickHouse knows: %s", message)
		case codeSyntax:
			return say("%s", message)
		}
		return say("ClickHouse: %s (code %d)", message, e.Code)
	}
	text := err.Error()
	switch {
	case errors.Is(err, context.Canceled):
		return say("the query was cancelled")
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, clickhouse.ErrAcquireConnTimeout):
		return say("ClickHouse at %s did not answer within %d s: choose a shorter time range, or check that it is well", at, c.settings.TimeoutSeconds)
	case errors.Is(err, syscall.ECONNREFUSED):
		return say("ClickHouse at %s refuses the connection: is it running there, and is the port that of the protocol %s?", at, c.settings.Protocol)
	case isDNS(err):
		return say("the address %s is not known: check the name of the host", at)
	case isCertificate(err):
		return say("the certificate of ClickHouse at %s is not trusted: set its certificate authority in the data source (%w)", at, err)
	case strings.Contains(text, "first record does not look like a TLS handshake"), strings.Contains(text, "server gave HTTP response to HTTPS client"):
		return say("ClickHouse at %s speaks no TLS on this port: switch TLS off, or use the port with TLS", at)
	case c.settings.Protocol == protocolNative && (strings.Contains(text, "unexpected packet") || strings.Contains(text, "EOF")):
		return say("%s does not speak ClickHouse's native protocol: if it is the port for HTTP, choose the protocol HTTP (and TLS as it is)", at)
	case c.settings.Protocol == protocolHTTP && (strings.Contains(text, "malformed HTTP") || strings.Contains(text, "clickhouse-client") || strings.Contains(text, "EOF")):
		return say("%s does not speak HTTP: if it is the port for the native protocol, choose the protocol native (and TLS as it is)", at)
	}
	return say("ClickHouse at %s: %s", at, clean(text))
}

func isDNS(err error) bool {
	_, ok := errors.AsType[*net.DNSError](err)
	return ok
}

func isCertificate(err error) bool {
	_, unknown := errors.AsType[x509.UnknownAuthorityError](err)
	_, host := errors.AsType[x509.HostnameError](err)
	_, invalid := errors.AsType[x509.CertificateInvalidError](err)
	return unknown || host || invalid
}

var (
	noise = regexp.MustCompile(`\s*\(version [^)]*\)|DB::Exception: |^Code: \d+\. `)
	name  = regexp.MustCompile(`[.\s]*\([A-Z_]+\)\s*$`) // of the code
	scope = regexp.MustCompile(`(?is):? in scope .*`)   // the query again
)

// clean returns ClickHouse's message without what only its developers need.
func clean(message string) string {
	message = noise.ReplaceAllString(strings.TrimSpace(message), "")
	message = strings.TrimSpace(scope.ReplaceAllString(name.ReplaceAllString(message, ""), ""))
	if len(message) > maxMessage {
		message = strings.ToValidUTF8(message[:maxMessage], "") + " …"
	}
	return message
}

// redacted returns err without the password, should a library have put it into its text.
func redacted(err error, password string) error {
	if password == "" || !strings.Contains(err.Error(), password) {
		return err
	}
	return errors.New(strings.ReplaceAll(err.Error(), password, "***"))
}
