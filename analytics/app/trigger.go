package app

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"

	"carom/analytics/jobs"
)

const (
	minToken, maxToken = 16, 4096 // bytes
	maxRequest         = 4096     // bytes of a request's body
	bodyTimeout        = 10 * time.Second
)

// trigger runs jobs for an outside scheduler that asks over HTTP. Whoever asks needs the token, which is
// read anew for each request: a new file counts at once.
type trigger struct {
	server    *server
	conn      driver.Conn
	jobs      []job
	tokenFile string

	ctx     context.Context //nolint:containedctx // of serve: a run goes on when who asked for it has gone
	running sync.WaitGroup

	mu   sync.Mutex
	busy map[string]bool // jobs that run here because somebody asked
}

// newTrigger returns a trigger whose runs end with ctx.
func newTrigger(ctx context.Context, s *server, conn driver.Conn, all []job, tokenFile string) *trigger {
	return &trigger{server: s, conn: conn, jobs: all, tokenFile: tokenFile, ctx: ctx, busy: map[string]bool{}}
}

// wait waits for the runs under way.
func (t *trigger) wait() { t.running.Wait() }

func (t *trigger) register(mux *http.ServeMux) {
	mux.HandleFunc("POST /v1/jobs/{name}", t.authorized(t.run))
	mux.HandleFunc("GET /v1/jobs", t.authorized(t.list))
}

// readToken returns what a token file holds, without white space around it.
func readToken(file string) (string, error) {
	f, err := os.Open(file) //nolint:gosec // the operator names the file
	if err != nil {
		return "", fmt.Errorf("token: %w", err)
	}
	defer func() { _ = f.Close() }() // only read
	data, err := io.ReadAll(io.LimitReader(f, maxToken+1))
	if err != nil {
		return "", fmt.Errorf("token: %w", err)
	}
	token := strings.TrimSpace(string(data))
	if len(token) < minToken || len(data) > maxToken {
		return "", fmt.Errorf("%s: want a token of %d to %d bytes, for example from: openssl rand -hex 32", file, minToken, maxToken)
	}
	return token, nil
}

// authorized answers 401 to whoever does not know the token. How long that takes says nothing of it.
func (t *trigger) authorized(next http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		want, err := readToken(t.tokenFile)
		if err != nil {
			t.server.log.ErrorContext(r.Context(), "nobody can ask for a job", "error", err)
			refuse(w, http.StatusServiceUnavailable, "the token file is not readable")
			return
		}
		got, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
		wantSum, gotSum := sha256.Sum256([]byte(want)), sha256.Sum256([]byte(got))
		if subtle.ConstantTimeCompare(wantSum[:], gotSum[:]) != 1 || !ok {
			w.Header().Set("WWW-Authenticate", "Bearer")
			refuse(w, http.StatusUnauthorized, "want the header Authorization: Bearer TOKEN, with the token of --token-file")
			return
		}
		next(w, r)
	}
}

// request is the body of a request for a run; it may be left out.
type request struct {
	From string `json:"from"`
	To   string `json:"to"`
}

// run answers a request for a run: 200 with its result when it is over, or 202 at once with ?wait=no.
func (t *trigger) run(w http.ResponseWriter, r *http.Request) {
	name := r.PathValue("name")
	j := find(t.jobs, name)
	if j == nil {
		refuse(w, http.StatusNotFound, fmt.Sprintf("no job %q here: GET /v1/jobs lists them", name))
		return
	}
	run, err := t.asked(w, r, j)
	if err != nil {
		refuse(w, http.StatusBadRequest, err.Error())
		return
	}
	if !t.take(name) {
		answer(w, http.StatusConflict, jobs.Result{Job: name, Skipped: true})
		return
	}
	done := make(chan struct{})
	var result jobs.Result
	t.running.Go(func() {
		defer close(done)
		defer t.give(name)
		result, err = t.server.once(t.ctx, name, run)
	})
	if r.URL.Query().Get("wait") == "no" {
		answer(w, http.StatusAccepted, map[string]any{"job": name, "started": true})
		return
	}
	<-done
	switch {
	case err != nil:
		answer(w, http.StatusInternalServerError, map[string]any{"error": err.Error(), "result": result})
	case result.Skipped:
		answer(w, http.StatusConflict, result)
	default:
		answer(w, http.StatusOK, result)
	}
}

// asked returns what a request wants to be run.
func (t *trigger) asked(w http.ResponseWriter, r *http.Request, j *job) (func(context.Context) (jobs.Result, error), error) {
	control := http.NewResponseController(w)
	if err := control.SetReadDeadline(time.Now().Add(bodyTimeout)); err != nil {
		return nil, err
	}
	var body request
	decoder := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxRequest))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&body); err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf(`want no body, or {"from": TIME, "to": TIME}: %w`, err)
	}
	if err := control.SetReadDeadline(time.Time{}); err != nil { // or a long run would look like a client that is gone
		return nil, err
	}
	from, to, err := span(body.From, body.To, time.Now().UTC())
	switch {
	case err != nil:
		return nil, err
	case from.IsZero():
		return j.run, nil
	case j.runRange == nil:
		return nil, fmt.Errorf("%s looks at the present only: it takes no range", j.name)
	}
	return func(ctx context.Context) (jobs.Result, error) { return j.runRange(ctx, from, to) }, nil
}

// take notes that a job runs here, unless it does already.
func (t *trigger) take(name string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.busy[name] {
		return false
	}
	t.busy[name] = true
	return true
}

func (t *trigger) give(name string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.busy, name)
}

// list answers with the state of every job.
func (t *trigger) list(w http.ResponseWriter, r *http.Request) {
	all, err := statuses(r.Context(), t.conn, t.jobs)
	if err != nil {
		refuse(w, http.StatusInternalServerError, err.Error())
		return
	}
	answer(w, http.StatusOK, all)
}

func refuse(w http.ResponseWriter, status int, why string) {
	answer(w, status, map[string]string{"error": why})
}

func answer(w http.ResponseWriter, status int, value any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(value) // the client may be gone
}
