package ship

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"sync/atomic"
	"time"

	"github.com/google/uuid"

	"carom/schemas/cursor"
	"carom/schemas/event"
	"carom/schemas/seglog"
	"carom/schemas/warehouse"
)

// stream ships one stream of the log. One goroutine owns it; while it sends a batch, another one
// collects the next.
type stream[T any] struct {
	shipper *Shipper
	name    string
	table   warehouse.Table[T]
	seq     *atomic.Uint64  // last stored record, for Status
	stamp   func(*batch[T]) // what the agent adds to rows before they are sent; may be nil

	incarnation string
	id          event.ID     // incarnation as the warehouse has it
	ready       bool         // the schema was looked at since the last error
	took        atomic.Int64 // nanoseconds to store the last batch
	batches     [2]*batch[T] // whose memory is used in turn
}

func (s *stream[T]) dir() string { return filepath.Join(s.shipper.opt.Dir, s.name) }

func (s *stream[T]) log() *slog.Logger { return s.shipper.opt.Log.With("stream", s.name) }

// run ships until ctx ends, one life of the log after the other.
func (s *stream[T]) run(ctx context.Context) error {
	for {
		err := s.ship(ctx)
		_, removed := errors.AsType[*seglog.RemovedError](err)
		if removed || errors.Is(err, seglog.ErrReplaced) {
			s.log().Warn("event log is not what it was, looking at it anew", "error", err)
			continue
		}
		if err != nil {
			return fmt.Errorf("ship stream %s: %w", s.name, err)
		}
		return nil
	}
}

// ship ships the log that is there now: first the batch that was being sent when the last process
// ended, then what follows.
func (s *stream[T]) ship(ctx context.Context) error {
	first, err := s.probe(ctx)
	if err != nil || s.incarnation == "" {
		return err
	}
	at, err := cursor.Load(s.shipper.opt.Dir, s.name)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	p, err := loadPending(s.shipper.opt.Dir, s.name)
	if err != nil {
		return err
	}
	if p != nil && p.Incarnation == at.Incarnation {
		p.after(at.Seq)
	}
	if at.Incarnation != s.incarnation {
		at = cursor.Cursor{Incarnation: s.incarnation}
	}
	s.seq.Store(at.Seq)
	switch {
	case p == nil || len(p.Ranges) == 0:
	case p.Incarnation != s.incarnation:
		s.log().Warn("log was replaced before its last batch was confirmed; completeness tells whether it is stored",
			"incarnation", p.Incarnation, "from", p.Ranges[0].From, "to", p.Ranges[len(p.Ranges)-1].To)
	default:
		if err := s.resume(ctx, p, first); err != nil {
			return err
		}
		at.Seq = s.seq.Load()
	}
	return s.tail(ctx, at.Seq+1, first)
}

// probe waits for the log, sets the incarnation and returns the log's first record. The
// incarnation stays empty if there is no log and Options.Once does not allow to wait.
func (s *stream[T]) probe(ctx context.Context) (first uint64, err error) {
	s.incarnation, first = "", 1
	for {
		r, err := seglog.OpenReader(s.dir(), first, seglog.Options{})
		if removed, ok := errors.AsType[*seglog.RemovedError](err); ok {
			first = removed.First
			continue
		}
		if errors.Is(err, fs.ErrNotExist) {
			if s.shipper.opt.Once {
				return 0, nil
			}
			if err := sleep(ctx, logPoll); err != nil {
				return 0, err
			}
			continue
		}
		if err != nil {
			return 0, err
		}
		s.incarnation = r.Incarnation()
		if err := r.Close(); err != nil {
			return 0, fmt.Errorf("close log: %w", err)
		}
		if s.id, err = uuid.Parse(s.incarnation); err != nil {
			return 0, fmt.Errorf("incarnation of the log: %w", err)
		}
		if s.name == event.StreamEvent {
			id := s.id
			s.shipper.incarnation.Store(&id)
		}
		return first, nil
	}
}

// open opens the log at from. Records before first were removed by somebody who did not look at
// the cursor: they are noted as lost, and reading begins at first.
func (s *stream[T]) open(from, first uint64) (*seglog.Reader, error) {
	if from < first {
		if err := s.quarantine(Quarantined{Seq: from, Last: first - 1, Reason: "removed from the log before it was shipped"}); err != nil {
			return nil, err
		}
		from = first
	}
	r, err := seglog.OpenReader(s.dir(), from, seglog.Options{})
	if ahead, ok := errors.AsType[*seglog.AheadError](err); ok {
		return nil, fmt.Errorf("the log ends at record %d, but record %d is stored already: "+
			"was it restored from an older copy? Its numbers must not be used twice: move the log away, the sender begins a new one: %w",
			ahead.Last, from-1, err)
	}
	if err == nil && r.Incarnation() != s.incarnation {
		return nil, errors.Join(seglog.ErrReplaced, r.Close())
	}
	return r, err
}

// resume sends what is left of p, whose records it reads from the log again.
func (s *stream[T]) resume(ctx context.Context, p *pending, first uint64) error {
	from, to := p.Ranges[0].From, p.Ranges[len(p.Ranges)-1].To
	s.log().Info("send the last batch again, its answer is not known", "from", from, "to", to)
	r, err := s.open(from, first)
	if err != nil {
		return err
	}
	b := newBatch(s.table, p.Node, s.id)
	b.begin(from)
	for b.to < to && err == nil {
		err = s.read(ctx, r, b)
	}
	if errors.Is(err, io.EOF) {
		err = errors.New("the log was not closed cleanly: start the sender once, so that it says how far it reaches")
	}
	if cerr := r.Close(); err == nil && cerr != nil {
		err = fmt.Errorf("close log: %w", cerr)
	}
	if err != nil {
		return err
	}
	return s.send(ctx, p, b, true)
}

// tail cuts and sends batches from record from on. The next batch is collected while ClickHouse
// stores the last; its bounds are free until it is sent.
func (s *stream[T]) tail(ctx context.Context, from, first uint64) error {
	r, err := s.open(from, first)
	if err != nil {
		return err
	}
	free, full := make(chan *batch[T], len(s.batches)), make(chan *batch[T])
	for i, b := range s.batches {
		if b == nil || b.id != s.id {
			s.batches[i] = newBatch(s.table, s.shipper.opt.Node, s.id)
		}
		free <- s.batches[i]
	}
	collecting, stop := context.WithCancel(ctx)
	end := make(chan error, 1)
	go func() {
		defer close(full)
		end <- s.collectAll(collecting, r, from, free, full)
		_ = r.Close() // only read
	}()
	for b := range full {
		if err = s.store(ctx, b); err != nil {
			break
		}
		free <- b
	}
	stop()
	ended := <-end
	for range full { // until it is closed, and the reader with it
	}
	if err == nil && !errors.Is(ended, io.EOF) {
		err = ended
	}
	return err
}

// store makes the bounds of b durable and sends it.
func (s *stream[T]) store(ctx context.Context, b *batch[T]) error {
	p := newPending(s.shipper.opt.Node, s.incarnation, s.name, b.from, b.to)
	if len(b.seqs) > 0 {
		if err := s.fault("save pending"); err != nil {
			return err
		}
		if err := p.save(s.shipper.opt.Dir, s.name); err != nil {
			return err
		}
	}
	started := time.Now()
	err := s.send(ctx, p, b, false)
	s.took.Store(int64(time.Since(started)))
	return err
}

// collectAll fills one batch after the other from r, which is at record from, until ctx or the log
// ends. What was read before the end of the log is handed on all the same.
func (s *stream[T]) collectAll(ctx context.Context, r *seglog.Reader, from uint64, free <-chan *batch[T], full chan<- *batch[T]) error {
	var b *batch[T]
	for {
		if b == nil {
			select {
			case b = <-free:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		b.begin(from)
		end := s.collect(ctx, r, b)
		if b.to >= b.from { // else damage was passed that holds no record
			from = b.to + 1
			select {
			case full <- b:
			case <-ctx.Done():
				return ctx.Err()
			}
			b = nil // another's
		}
		if end != nil {
			return end
		}
	}
}

// collect fills b until it is full or old enough. With Options.Once it returns io.EOF at the tail.
func (s *stream[T]) collect(ctx context.Context, r *seglog.Reader, b *batch[T]) error {
	opt := s.shipper.opt
	wait := ctx
	for len(b.seqs)+len(b.bad) < opt.BatchRows && len(b.records) < opt.BatchBytes {
		err := s.read(wait, r, b)
		if err != nil && ctx.Err() == nil && errors.Is(err, context.DeadlineExceeded) {
			return nil
		}
		if err != nil {
			return err
		}
		if wait == ctx {
			var cancel context.CancelFunc
			wait, cancel = context.WithTimeout(ctx, batchAge(opt.BatchAge, time.Duration(s.took.Load())))
			defer cancel()
		}
	}
	return nil
}

// batchAge returns how long a batch is collected if the last one took so long to store.
func batchAge(configured, took time.Duration) time.Duration {
	return max(configured, min(insertShare*took, maxLag-took))
}

// read adds the next record to b, or what the log says in its place.
func (s *stream[T]) read(ctx context.Context, r *seglog.Reader, b *batch[T]) error {
	var e seglog.Entry
	var err error
	if s.shipper.opt.Once {
		var ok bool
		if e, ok, err = r.TryNext(); !ok && err == nil {
			return io.EOF
		}
	} else {
		e, err = r.Next(ctx)
	}
	if damage, ok := errors.AsType[*seglog.CorruptError](err); ok {
		if r.Seq() <= b.to+1 { // no number is missing
			s.log().Warn("damage in the event log, no record is lost", "error", damage)
			return nil
		}
		b.bad = append(b.bad, Quarantined{Seq: b.to + 1, Last: r.Seq() - 1, Reason: damage.Error()})
		b.to = r.Seq() - 1
		return nil
	}
	if err != nil {
		return err
	}
	b.to = e.Seq
	if malformed := b.add(e.Seq, e.Data); malformed != nil {
		b.bad = append(b.bad, Quarantined{Seq: e.Seq, Reason: malformed.Error(), Record: slices.Clone(e.Data)})
	}
	return nil
}

// send stores b, whose bounds are those of p, range by range, and moves the cursor behind each.
// It returns when b is stored, or with an error that waiting does not cure. repeated says that p
// may have been sent before.
func (s *stream[T]) send(ctx context.Context, p *pending, b *batch[T], repeated bool) error {
	for _, q := range b.bad {
		if err := s.quarantine(q); err != nil {
			return err
		}
	}
	for len(p.Ranges) > 0 {
		rng := p.Ranges[0]
		part := b.between(rng.From, rng.To)
		err := s.insist(ctx, p, part, repeated)
		switch {
		case err == nil:
		case !warehouse.BadData(err):
			return err
		case len(part.seqs) == 1:
			if err := s.refuse(ctx, part.seqs[0], err); err != nil {
				return err
			}
		default:
			if p, err = s.split(p, part, err); err != nil {
				return err
			}
			continue
		}
		if err := s.fault("move cursor"); err != nil {
			return err
		}
		if err := cursor.Save(s.shipper.opt.Dir, s.name, cursor.Cursor{Incarnation: s.incarnation, Seq: rng.To}); err != nil {
			return err
		}
		s.seq.Store(rng.To)
		p.Ranges = p.Ranges[1:]
	}
	return nil
}

// insist inserts part, the first range of p, until it is stored. It returns an error of
// warehouse.Split, with Options.Once one of warehouse.Operator, the end of ctx, or the order to die.
func (s *stream[T]) insist(ctx context.Context, p *pending, part *batch[T], repeated bool) error {
	var warned, since time.Time
	for try := 0; len(part.seqs) > 0; try++ {
		if err := s.fault("insert"); err != nil {
			return err
		}
		err := s.insert(ctx, p, part, repeated || try > 0)
		if err == nil {
			if !warned.IsZero() {
				s.log().Info("shipping again", "after", time.Since(since).Round(time.Millisecond))
			}
			return s.fault("inserted")
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		remedy, wait := warehouse.RemedyOf(err), backoff(try)
		switch {
		case remedy == warehouse.Split:
			return err
		case remedy == warehouse.Operator && s.shipper.opt.Once:
			return err
		case remedy == warehouse.Operator && try > 5: // the schema may be on its way
			wait = operatorWait
		}
		s.ready = false
		if since.IsZero() {
			since = time.Now()
		}
		if time.Since(warned) >= repeatWarning && s.shipper.opt.Reachable(ctx) {
			warned = time.Now()
			if remedy == warehouse.Operator {
				s.log().Error("ClickHouse refuses this agent, nothing is shipped until that is changed: check the login and its grants, and carom schema verify",
					"from", part.from, "to", part.to, "error", err)
			} else {
				s.log().Warn("batch is not stored yet, trying again", "from", part.from, "to", part.to, "error", err)
			}
		}
		if err := sleep(ctx, wait); err != nil {
			return err
		}
	}
	return nil
}

// insert tries once.
func (s *stream[T]) insert(ctx context.Context, p *pending, part *batch[T], repeated bool) error {
	ctx, cancel := context.WithTimeout(ctx, insertTimeout)
	defer cancel()
	conn, token := s.shipper.opt.Conn, p.Ranges[0].Token
	if !s.ready {
		if err := warehouse.Check(ctx, conn); err != nil {
			return err
		}
		window, err := warehouse.DedupWindow(ctx, conn, s.table.Name)
		if err != nil {
			return err
		}
		if window.Blocks == 0 {
			return fmt.Errorf("table %s remembers no tokens, so that a batch that is sent again would be stored twice: "+
				"carom schema print shows the setting of its deduplication window", s.table.Name)
		}
		s.ready = true
	}
	if !p.Split && !repeated {
		return s.insertBlock(ctx, token, part)
	}
	place := warehouse.Place{Node: p.Node, Incarnation: s.id, From: part.from, To: part.to}
	stored, forgotten, err := s.table.Landed(ctx, conn, place)
	if err != nil {
		return err
	}
	// The token makes the repetition exact, unless the parts are others than were sent first, or
	// ClickHouse took in so much since then that it has forgotten the token. Then what is stored
	// decides.
	again := part
	if p.Split || forgotten {
		again = part.without(stored)
	}
	if len(again.seqs) > 0 {
		if err := s.insertBlock(ctx, token, again); err != nil {
			return err
		}
	}
	// Now no attempt under the token can store anything any more, so what is missing is missing for
	// good (see Repair), and the same holds for each repair in its turn.
	for n := 1; ; n++ {
		if stored, _, err = s.table.Landed(ctx, conn, place); err != nil {
			return err
		}
		missing := part.without(stored)
		if len(missing.seqs) == 0 {
			return nil
		}
		s.log().Warn("ClickHouse died with the token of a batch and without its rows, storing them again",
			"from", part.from, "to", part.to, "missing", len(missing.seqs))
		if err := missing.refused(s.table.Repair(ctx, conn, fmt.Sprintf("%s/repair-%d", token, n), missing.block)); err != nil {
			return err
		}
	}
}

func (s *stream[T]) insertBlock(ctx context.Context, token string, part *batch[T]) error {
	if s.stamp != nil {
		s.stamp(part)
	}
	return part.refused(s.table.InsertBlock(ctx, s.shipper.opt.Conn, token, part.block))
}

// split cuts the first range of p where cause points, or in the middle, and makes that durable.
func (s *stream[T]) split(p *pending, part *batch[T], cause error) (*pending, error) {
	ends := []uint64{part.seqs[len(part.seqs)/2-1]}
	if e, ok := errors.AsType[*refusedError](cause); ok {
		ends = []uint64{e.seq - 1, e.seq}
	}
	s.log().Warn("batch is refused for its data, splitting it", "from", part.from, "to", part.to, "error", cause)
	next := p.split(s.name, ends...)
	if err := s.fault("save split"); err != nil {
		return nil, err
	}
	return next, next.save(s.shipper.opt.Dir, s.name)
}

// refuse puts the record seq, which ClickHouse refuses, into quarantine.
func (s *stream[T]) refuse(ctx context.Context, seq uint64, cause error) error {
	r, err := s.open(seq, 1)
	if err != nil {
		return err
	}
	defer func() { _ = r.Close() }() // only read
	e, err := r.Next(ctx)
	if err != nil {
		return err
	}
	return s.quarantine(Quarantined{Seq: seq, Reason: cause.Error(), Record: slices.Clone(e.Data)})
}

func (s *stream[T]) quarantine(q Quarantined) error {
	if err := s.fault("quarantine"); err != nil {
		return err
	}
	q.Node, q.Incarnation, q.Stream, q.Time = s.shipper.opt.Node, s.id, s.name, time.Now().UTC()
	isNew, err := q.save(s.shipper.opt.Dir)
	if err != nil {
		return err
	}
	if isNew {
		s.log().Error("record is not stored and lies in quarantine", "seq", q.Seq, "last", max(q.Seq, q.Last), "reason", q.Reason)
	}
	return nil
}

func (s *stream[T]) fault(step string) error { return s.shipper.opt.fault(s.name, step) }

// backoff returns how long to wait after try (0 for the first): twice as long each time up to
// maxBackoff, of which a random half, so that the agents of a fleet don't come back at once.
func backoff(try int) time.Duration {
	d := min(minBackoff<<min(try, 16), maxBackoff)
	return d/2 + rand.N(d/2+1)
}

func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
