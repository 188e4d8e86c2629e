//go:build unix

package engine

import (
	"compress/gzip"
	"compress/zlib"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/andybalholm/brotli"
	"github.com/google/uuid"
	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"

	"carom/schemas/warehouse/engine/chdb"
	"carom/schemas/warehouse/engine/sqltext"
)

// maxQuerySize is how long a statement without its data may be: ClickHouse's default of
// max_query_size, which the engine applies.
const maxQuerySize = 262144

// request is one HTTP request taken apart.
type request struct {
	id        string // X-ClickHouse-Query-Id
	tag       string // marks the running statement for KILL QUERY
	client    string // whose turn it is in a queue
	user      *user
	statement *sqltext.Statement
	data      io.Reader // behind statement.Data: the rest of an insert's data; may be nil
	database  string
	format    string // for a result without a FORMAT clause
	settings  []sqltext.Setting
	params    []chdb.Param
	revision  uint64 // client_protocol_version: of the Native blocks in the answer
	compress  string // "", "LZ4" or "ZSTD": blocks in ClickHouse's own framing
	encoding  string // "", or Content-Encoding of the answer
	wait      bool   // hold the answer back until the query has ended
}

// notSettings are the URL parameters of ClickHouse's HTTP interface that are no settings.
var notSettings = []string{
	"query", "database", "default_format", "user", "password", "quota_key", "query_id", "compress", "decompress",
	"client_protocol_version", "buffer_size", "wait_end_of_query", "stacktrace", "role", "http_wait_end_of_query",
	"session_timeout", "session_check", "close_session", "network_compression_method", "network_zstd_compression_level",
	"enable_http_compression", "http_zlib_compression_level", "send_progress_in_http_headers", "add_http_cors_header",
	"http_headers_progress_interval_ms", "http_response_buffer_size",
}

// parseRequest takes r apart and reads the statement, but not the data of an insert. The error is
// a *chdb.Error, or that of reading the body.
func parseRequest(r *http.Request, u *user) (*request, error) {
	values, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return nil, exception(badArguments, "Cannot parse the URL's parameters: "+err.Error())
	}
	if strings.HasPrefix(r.Header.Get("Content-Type"), "multipart/form-data") {
		return nil, exception(notImplemented, "The embedded engine takes no multipart/form-data (external tables).")
	}
	if values.Has("session_id") {
		return nil, exception(notImplemented, "The embedded engine has no sessions: give settings in the URL or in a SETTINGS clause.")
	}
	q := &request{
		id:       firstOf(values.Get("query_id"), uuid.NewString()),
		tag:      "carom:" + uuid.NewString(),
		user:     u,
		database: firstOf(values.Get("database"), r.Header.Get("X-ClickHouse-Database"), "default"),
		format:   canonicalFormat(firstOf(values.Get("default_format"), r.Header.Get("X-ClickHouse-Format"), "TabSeparated")),
		wait:     isTrue(values.Get("wait_end_of_query")) || isTrue(values.Get("http_wait_end_of_query")),
	}
	q.client = u.name + " " + hostOf(r.RemoteAddr) + " " + r.UserAgent()
	if !sqltext.IsName(q.format) {
		return nil, exception(badArguments, "Bad default_format.")
	}
	if v := values.Get("client_protocol_version"); v != "" {
		if q.revision, err = strconv.ParseUint(v, 10, 32); err != nil {
			return nil, exception(badArguments, "client_protocol_version is no number.")
		}
	}
	if err := q.answerCoding(r, values); err != nil {
		return nil, err
	}
	for name, list := range values {
		value := list[len(list)-1]
		switch param, isParam := strings.CutPrefix(name, "param_"); {
		case isParam:
			q.params = append(q.params, chdb.Param{Name: param, Value: value})
		case slices.Contains(notSettings, name):
		case !sqltext.IsName(name):
			return nil, exception(unknownSetting, fmt.Sprintf("Unknown setting %s.", sqltext.Quote(name)))
		default:
			q.settings = append(q.settings, sqltext.Setting{Name: name, Value: value})
		}
	}
	slices.SortFunc(q.settings, func(a, b sqltext.Setting) int { return strings.Compare(a.Name, b.Name) })

	body, err := bodyOf(r, isTrue(values.Get("decompress")))
	if err != nil {
		return nil, err
	}
	return q, q.readStatement(values.Get("query"), body)
}

// readStatement reads the statement from the URL and the body: the URL's part comes first. What
// follows an insert's statement in the body stays there.
func (q *request) readStatement(sql string, body io.Reader) (err error) {
	if sql != "" {
		if q.statement, err = parseStatement(sql); err != nil || q.statement.Kind == sqltext.Insert {
			q.data = body
			return err
		}
		sql += "\n"
	}
	if body != nil {
		head, err := io.ReadAll(io.LimitReader(body, maxQuerySize))
		if err != nil {
			return exception(cannotReadAllData, "Cannot read the request's body: "+err.Error())
		}
		if sql += string(head); len(head) == maxQuerySize {
			q.data = body // and only an insert may have more
		}
	}
	if strings.TrimSpace(sql) == "" {
		return exception(syntaxError, "Empty query.")
	}
	if q.statement, err = parseStatement(sql); err != nil {
		return err
	}
	if q.data != nil && q.statement.Kind != sqltext.Insert {
		return exception(syntaxError, "Max query size exceeded (can be no more than 262144 bytes).")
	}
	return nil
}

func parseStatement(sql string) (*sqltext.Statement, error) {
	statement, err := sqltext.Parse(sql)
	if err != nil {
		return nil, exception(syntaxError, "Syntax error (Multi-statements are not allowed).")
	}
	switch {
	case statement.Outfile:
		return nil, exception(outfileNotAllowed, "INTO OUTFILE is not allowed.")
	case statement.Infile:
		return nil, exception(unknownTypeOfQuery, "Query has infile and was sent directly to the server.")
	case statement.Kind == sqltext.Session:
		return nil, exception(notImplemented,
			"The embedded engine has no sessions: SET, USE and transactions would have no effect. Give the database and settings in the URL or in a SETTINGS clause.")
	}
	return inOurTime(statement)
}

// bodyOf returns r's body with its compressions taken off, or nil for a GET.
func bodyOf(r *http.Request, native bool) (io.Reader, error) {
	if r.Method != http.MethodPost {
		return nil, nil
	}
	var (
		body io.Reader = r.Body
		err  error
	)
	switch encoding := r.Header.Get("Content-Encoding"); encoding {
	case "", "identity":
	case "gzip", "x-gzip":
		body, err = gzip.NewReader(body)
	case "deflate":
		body, err = zlib.NewReader(body)
	case "br":
		body = brotli.NewReader(body)
	case "zstd":
		var decoder *zstd.Decoder
		if decoder, err = zstd.NewReader(body, zstd.WithDecoderConcurrency(1)); err == nil {
			body = decoder.IOReadCloser()
		}
	case "lz4":
		body = lz4.NewReader(body)
	default:
		return nil, exception(unknownCompression, "Unknown compression method: "+encoding)
	}
	if errors.Is(err, io.EOF) {
		return nil, nil // an encoded nothing
	}
	if err != nil {
		return nil, exception(cannotReadAllData, "Cannot read the request's body: "+err.Error())
	}
	if native {
		body = newBlockReader(body)
	}
	return body, nil
}

// answerCoding chooses the compression of the answer.
func (q *request) answerCoding(r *http.Request, values url.Values) error {
	if isTrue(values.Get("compress")) {
		switch method := strings.ToUpper(values.Get("network_compression_method")); method {
		case "", "LZ4", "LZ4HC":
			q.compress = "LZ4"
		case "ZSTD", "NONE":
			q.compress = method
		default:
			return exception(unknownCompression, "Unknown compression method: "+method)
		}
		return nil
	}
	if v := values.Get("enable_http_compression"); v != "" && !isTrue(v) {
		return nil
	}
	// A server takes the first of its own list that the client names, whatever its quality value.
	accepted := r.Header.Get("Accept-Encoding")
	for _, coding := range [...]string{"br", "gzip", "deflate", "zstd"} {
		if strings.Contains(accepted, coding) {
			q.encoding = coding
			return nil
		}
	}
	return nil
}

// canonicalFormat returns a format's name with the case that the front compares with.
func canonicalFormat(name string) string {
	if strings.EqualFold(name, "Native") {
		return "Native"
	}
	return name
}

func isTrue(s string) bool { return s == "1" || strings.EqualFold(s, "true") }

func firstOf(values ...string) string {
	for _, v := range values {
		if v != "" {
			return v
		}
	}
	return ""
}
