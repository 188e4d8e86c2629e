//go:build unix

package engine

import (
	"context"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"

	"carom/schemas/warehouse/engine/chdb"
	"carom/schemas/warehouse/engine/sqltext"
)

// ServeHTTP answers one request of ClickHouse's HTTP interface.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch r.URL.Path {
	case "/ping", "/replicas_status":
		_, _ = io.WriteString(w, "Ok.\n")
		return
	case "/":
	default:
		http.Error(w, "There is no handle "+r.URL.Path, http.StatusNotFound)
		return
	}
	if r.Method != http.MethodGet && r.Method != http.MethodPost {
		w.Header().Set("Allow", "GET, POST")
		http.Error(w, "Use GET or POST.", http.StatusMethodNotAllowed)
		return
	}
	if r.Method == http.MethodGet && !r.URL.Query().Has("query") {
		_, _ = io.WriteString(w, "Ok.\n")
		return
	}
	u, err := s.authenticate(r)
	if err != nil {
		s.refuse(w, err)
		return
	}
	q, err := parseRequest(r, u)
	if err != nil {
		s.refuse(w, err)
		return
	}
	response, err := s.newResponse(w, q)
	if err != nil {
		s.refuse(w, err)
		return
	}
	defer response.close()
	if err := s.run(r, q, response); err != nil {
		s.log.DebugContext(r.Context(), "statement failed", "query_id", q.id, "error", err)
		response.fail(err)
	}
}

// refuse answers a request that did not get as far as its statement.
func (s *Server) refuse(w http.ResponseWriter, err error) {
	e := asException(err)
	writeException(w, e, e.Error()+" (version "+s.version+")")
}

func (s *Server) run(r *http.Request, q *request, out *response) error {
	ctx := r.Context()
	statement := q.statement
	reads := statement.Kind == sqltext.Select || statement.Kind == sqltext.Info
	if r.Method == http.MethodGet && !reads {
		return exception(readonlyMode, q.user.name+": Cannot execute query in readonly mode. "+
			"For queries over HTTP, method GET implies readonly. You should use method POST for modifying queries.")
	}
	if q.user.readonly || q.asksReadonly() {
		if err := s.restrict(ctx, q); err != nil {
			return err
		}
		statement = q.statement
	}
	if statement.Kind == sqltext.Insert {
		return s.insert(ctx, q, out)
	}
	if statement.Format != "" {
		q.format = canonicalFormat(statement.Format)
	}
	return s.on(ctx, s.laneOf(statement), q, func(conn *chdb.Conn) error {
		text := statement.With(q.settings, q.format, q.tag)
		if q.streamable() {
			return q.stream(ctx, conn, text, out)
		}
		result, err := conn.Query(text, q.format, q.params...)
		if err != nil {
			return err
		}
		defer result.Close()
		out.stats = result.Stats()
		if err := q.write(out, result); err != nil {
			return err
		}
		return out.finish()
	})
}

// greetings are what clickhouse-go asks on connecting and to ping; they do not queue with reads.
var greetings = map[string]bool{
	"SELECT 1": true,
	"SELECT displayName(), version(), revision(), timezone()": true,
}

func (s *Server) laneOf(statement *sqltext.Statement) *lane {
	switch statement.Kind {
	case sqltext.Select:
		if greetings[strings.TrimSpace(statement.Text)] {
			return s.control
		}
		return s.reads
	case sqltext.Info:
		return s.reads
	case sqltext.Insert:
		return s.inserts
	case sqltext.Kill:
		return s.control
	default:
		return s.changes
	}
}

// stream sends a result part by part.
func (q *request) stream(ctx context.Context, conn *chdb.Conn, text string, out *response) error {
	stream, err := conn.Stream(text, q.format, q.params...)
	if err != nil {
		return err
	}
	defer stream.Close()
	for {
		part, err := stream.Next()
		out.stats = stream.Stats()
		if err != nil {
			return err
		}
		if part == nil {
			return out.finish()
		}
		err = q.write(out, part)
		part.Close()
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return err
		}
	}
}

// write writes a part of the result, Native blocks in the revision that the client asked for.
func (q *request) write(out io.Writer, part *chdb.Result) error {
	if q.format == "Native" {
		return recodeNative(out, part.Bytes(), q.revision)
	}
	_, err := out.Write(part.Bytes())
	return err
}

// insert spools the data and has the engine read it from there. Nothing is inserted of a body
// that breaks off.
func (s *Server) insert(ctx context.Context, q *request, out *response) error {
	data, err := newSpool(s.spoolFolder)
	if err != nil {
		return err
	}
	defer func() { _ = data.Close() }()
	if _, err := io.WriteString(data, q.statement.Data); err != nil {
		return err
	}
	if q.data != nil {
		if _, err := data.fill(q.data); err != nil {
			return err
		}
	}
	return s.on(ctx, s.inserts, q, func(conn *chdb.Conn) error {
		result, err := conn.Query(q.statement.FromFile(data.path(), q.insertSettings(), q.tag), "Null", q.params...)
		if err != nil {
			return err
		}
		out.stats = result.Stats()
		result.Close()
		return out.finish()
	})
}

// insertSettings returns q's settings for an insert from a file: the engine cuts the file into
// blocks by max_block_size where a server cuts the body by max_insert_block_size.
func (q *request) insertSettings() []sqltext.Setting {
	for _, setting := range q.settings {
		if setting.Name == "max_insert_block_size" {
			others := slices.DeleteFunc(slices.Clone(q.settings), func(s sqltext.Setting) bool { return s.Name == "max_block_size" })
			return append(others, sqltext.Setting{Name: "max_block_size", Value: setting.Value})
		}
	}
	return q.settings
}

// on runs f with a connection of lane whose database is q's, and kills q's statement when ctx
// ends before f does.
func (s *Server) on(ctx context.Context, from *lane, q *request, f func(*chdb.Conn) error) error {
	w, err := from.acquire(ctx, q.client)
	if err != nil {
		return err
	}
	defer from.release(w)
	return onThread(func() error {
		if err := w.use(q.database); err != nil {
			return err
		}
		done := make(chan struct{})
		killed := make(chan struct{})
		stop := context.AfterFunc(ctx, func() {
			defer close(killed)
			s.kill(context.WithoutCancel(ctx), q.tag, done)
		})
		defer func() {
			close(done)
			if !stop() {
				<-killed
			}
		}()
		return f(w.conn)
	})
}

// onControl runs f, which takes no longer than parsing does, on the control connection.
func (s *Server) onControl(ctx context.Context, q *request, f func(*chdb.Conn) error) error {
	w, err := s.control.acquire(ctx, q.client)
	if err != nil {
		return err
	}
	defer s.control.release(w)
	return onThread(func() error { return f(w.conn) })
}

// use makes database the one of unqualified names. Each request sets it, so it does not matter
// what the one before has left.
func (w *worker) use(database string) error {
	if w.database == database {
		return nil
	}
	result, err := w.conn.Query("USE "+quoteIdentifier(database), "Null")
	if err != nil {
		return err
	}
	result.Close()
	w.database = database
	return nil
}

var identifierEscaper = strings.NewReplacer("\\", "\\\\", "`", "\\`")

func quoteIdentifier(name string) string { return "`" + identifierEscaper.Replace(name) + "`" }

// killEvery is how often kill tries again: a statement can be killed only once the engine has
// it in its list.
const killEvery = 100 * time.Millisecond

// kill ends the statement marked with tag and returns when done is closed.
func (s *Server) kill(ctx context.Context, tag string, done <-chan struct{}) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		<-done
		cancel()
	}()
	again := time.NewTicker(killEvery)
	defer again.Stop()
	for {
		if w, err := s.control.acquire(ctx, "kill"); err == nil {
			// The mark is put together by the engine, so that this statement does not have it.
			err := onThread(func() error {
				_, err := fetch(w.conn, "KILL QUERY WHERE endsWith(query, concat('/', '*"+tag+"*/')) ASYNC")
				return err
			})
			s.control.release(w)
			if err != nil {
				s.log.Warn("kill statement", "error", err)
			}
		}
		select {
		case <-done:
			return
		case <-again.C:
		}
	}
}

// stripTag returns e without the mark of the statement in texts that quote it.
func stripTag(e *chdb.Error, tag string) *chdb.Error {
	stripped := *e
	stripped.Message = strings.ReplaceAll(e.Message, " /*"+tag+"*/", "")
	return &stripped
}
