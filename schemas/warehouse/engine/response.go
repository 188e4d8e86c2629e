//go:build unix

package engine

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"compress/zlib"
	"crypto/rand"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"

	"github.com/ClickHouse/ch-go/compress"
	"github.com/andybalholm/brotli"
	"github.com/klauspost/compress/zstd"

	"carom/schemas/warehouse/engine/chdb"
	"carom/schemas/warehouse/engine/sqltext"
)

// holdBack is how much of a result waits for the query's end before the answer starts. A short
// result has its final counters in the headers, and an error in it has its proper status.
const holdBack = 1 << 20

// response is the answer to one query. What is written to it passes the answer's compression, is
// held back up to holdBack (or, with wait_end_of_query, whole), and goes out.
type response struct {
	w       http.ResponseWriter
	q       *request
	folder  string // for the spool
	version string
	began   time.Time
	tag     string // announces an exception inside a body

	in     *bufio.Writer // compression, or straight to out
	coder  io.Closer     // ends the content coding; nil without one
	held   bytes.Buffer
	waited *spool // what is held back beyond held; nil if nothing is
	begun  bool   // the status line is out
	filled bool   // something was written
	stats  chdb.Stats
}

func (s *Server) newResponse(w http.ResponseWriter, q *request) (*response, error) {
	r := &response{w: w, q: q, folder: s.spoolFolder, version: s.version, began: time.Now(), tag: rand.Text()[:16]}
	var out io.Writer = outWriter{r}
	switch {
	case q.compress != "":
		out = &blockWriter{out: out, writer: compress.NewWriter(compress.LevelZero, compressMethods[q.compress])}
	case q.encoding == "br":
		coder := brotli.NewWriterLevel(out, 3)
		out, r.coder = coder, coder
	case q.encoding == "gzip":
		coder := gzip.NewWriter(out)
		out, r.coder = coder, coder
	case q.encoding == "deflate":
		coder := zlib.NewWriter(out)
		out, r.coder = coder, coder
	case q.encoding == "zstd":
		coder, err := zstd.NewWriter(out, zstd.WithEncoderConcurrency(1))
		if err != nil {
			return nil, fmt.Errorf("zstd: %w", err)
		}
		out, r.coder = coder, coder
	}
	r.in = bufio.NewWriterSize(out, 64<<10)
	return r, nil
}

var compressMethods = map[string]compress.Method{"LZ4": compress.LZ4, "ZSTD": compress.ZSTD, "NONE": compress.None}

// Write takes a part of the result.
func (r *response) Write(p []byte) (int, error) {
	r.filled = r.filled || len(p) > 0
	return r.in.Write(p)
}

// outWriter is where the compressed result goes.
type outWriter struct{ *response }

func (o outWriter) Write(p []byte) (int, error) {
	r := o.response
	switch {
	case r.begun:
		return r.w.Write(p)
	case r.waited != nil:
		return r.waited.Write(p)
	case r.held.Len()+len(p) <= holdBack:
		return r.held.Write(p)
	case r.q.wait:
		waited, err := newSpool(r.folder)
		if err != nil {
			return 0, err
		}
		r.waited = waited
		return r.waited.Write(p)
	}
	if err := r.begin(-1); err != nil {
		return 0, err
	}
	return r.w.Write(p)
}

// begin sends the status line, the headers and what is held back in memory.
func (r *response) begin(length int64) error {
	r.begun = true
	h := r.w.Header()
	r.identify(h)
	h.Set("Content-Type", contentType(r.q.format))
	h.Set("X-ClickHouse-Format", r.q.format)
	h.Set("X-ClickHouse-Exception-Tag", r.tag)
	if r.q.encoding != "" && r.filled {
		h.Set("Content-Encoding", r.q.encoding)
	}
	if length >= 0 {
		h.Set("Content-Length", strconv.FormatInt(length, 10))
	}
	r.w.WriteHeader(http.StatusOK)
	_, err := r.w.Write(r.held.Bytes())
	r.held = bytes.Buffer{}
	return err
}

// identify sets the headers that every answer has.
func (r *response) identify(h http.Header) {
	h.Set("X-ClickHouse-Query-Id", r.q.id)
	h.Set("X-ClickHouse-Server-Display-Name", "carom")
	h.Set("X-ClickHouse-Timezone", timezone)
	h.Set("X-ClickHouse-Summary", fmt.Sprintf(
		`{"read_rows":"%d","read_bytes":"%d","written_rows":"%d","written_bytes":"%d","total_rows_to_read":"0","result_rows":"%d","result_bytes":"0","elapsed_ns":"%d"}`,
		r.stats.ReadRows, r.stats.ReadBytes, r.stats.WrittenRows, r.stats.WrittenBytes, r.stats.ResultRows, time.Since(r.began),
	))
}

// finish ends a successful answer.
func (r *response) finish() error {
	if err := r.in.Flush(); err != nil {
		return err
	}
	if r.coder != nil && r.filled {
		if err := r.coder.Close(); err != nil {
			return err
		}
	}
	if r.begun {
		return nil
	}
	if r.waited == nil {
		return r.begin(int64(r.held.Len()))
	}
	size, err := r.waited.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	length := int64(r.held.Len()) + size
	if _, err := r.waited.Seek(0, io.SeekStart); err != nil {
		return err
	}
	if err := r.begin(length); err != nil {
		return err
	}
	_, err = io.Copy(r.w, r.waited)
	return err
}

// close frees what the response holds.
func (r *response) close() {
	if r.waited != nil {
		_ = r.waited.Close()
	}
}

// fail reports err: with a status of its own as long as nothing has gone out, else inside the
// body, after which the connection ends without the body's proper end.
func (r *response) fail(err error) {
	e := asException(err)
	text := r.text(e)
	if !r.begun {
		h := r.w.Header()
		r.identify(h)
		writeException(r.w, e, text)
		return
	}
	// ClickHouse's frame of an exception in a body: marker, tag, text, length and tag, marker.
	text += "\n"
	frame := fmt.Appendf(nil, "\r\n__exception__\r\n%s\r\n%s%d %s\r\n__exception__\r\n", r.tag, text, len(text), r.tag)
	if flushErr := r.in.Flush(); flushErr == nil {
		r.writeFrame(frame)
	}
	_ = http.NewResponseController(r.w).Flush()
	// The one way that net/http has to break a response off; the server does not log it.
	panic(http.ErrAbortHandler)
}

func (r *response) writeFrame(frame []byte) {
	if r.q.compress != "" {
		// Not compressed, so that a client finds the marker in the raw bytes too.
		writer := compress.NewWriter(compress.LevelZero, compress.None)
		if err := writer.Compress(frame); err == nil {
			_, _ = r.w.Write(writer.Data)
		}
		return
	}
	if _, err := r.in.Write(frame); err == nil && r.in.Flush() == nil && r.coder != nil {
		_ = r.coder.Close()
	}
}

// text returns e as a server writes it: with its version, and without the mark of the statement.
func (r *response) text(e *chdb.Error) string {
	return fmt.Sprintf("%s (version %s)", stripTag(e, r.q.tag).Error(), r.version)
}

func writeException(w http.ResponseWriter, e *chdb.Error, text string) {
	h := w.Header()
	h.Set("Content-Type", "text/plain; charset=UTF-8")
	h.Set("X-ClickHouse-Exception-Code", strconv.Itoa(e.Code))
	w.WriteHeader(httpStatus(e))
	_, _ = io.WriteString(w, text+"\n") // a client that is gone needs no error
}

// concatenable are the formats whose parts, each formatted by itself, make up the whole when put
// one behind the other: without header, footer and separator.
var concatenable = map[string]bool{
	"Native": true, "RowBinary": true, "RawBLOB": true, "LineAsString": true, "TSKV": true, "CSV": true,
	"TabSeparated": true, "TSV": true, "TabSeparatedRaw": true, "TSVRaw": true, "Raw": true,
	"JSONEachRow": true, "JSONLines": true, "NDJSON": true, "JSONStringsEachRow": true,
	"JSONCompactEachRow": true, "JSONCompactStringsEachRow": true,
}

// streamable reports whether the result of statement can be sent part by part.
func (q *request) streamable() bool {
	if q.statement.Kind != sqltext.Select || !concatenable[q.format] {
		return false
	}
	for _, setting := range q.settings {
		if setting.Name == "output_format_json_array_of_rows" {
			return false
		}
	}
	return !containsFold(q.statement.Settings, "output_format_json_array_of_rows")
}

func contentType(format string) string {
	switch format {
	case "TabSeparated", "TSV", "TabSeparatedWithNames", "TSVWithNames", "TabSeparatedWithNamesAndTypes",
		"TSVWithNamesAndTypes", "TabSeparatedRaw", "TSVRaw", "Raw":
		return "text/tab-separated-values; charset=UTF-8"
	case "JSON", "JSONCompact", "JSONStrings", "JSONColumns", "JSONColumnsWithMetadata", "JSONObjectEachRow":
		return "application/json; charset=UTF-8"
	case "JSONEachRow", "JSONLines", "NDJSON", "JSONStringsEachRow", "JSONCompactEachRow":
		return "application/x-ndjson; charset=UTF-8"
	case "CSV":
		return "text/csv; charset=UTF-8; header=absent"
	case "CSVWithNames", "CSVWithNamesAndTypes":
		return "text/csv; charset=UTF-8; header=present"
	case "XML":
		return "application/xml; charset=UTF-8"
	case "Native", "RowBinary", "RowBinaryWithNames", "RowBinaryWithNamesAndTypes", "Parquet", "Arrow", "ArrowStream":
		return "application/octet-stream"
	}
	return "text/plain; charset=UTF-8"
}
