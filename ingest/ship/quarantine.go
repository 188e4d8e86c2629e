package ship

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"

	"carom/schemas/atomicfile"
	"carom/schemas/event"
	"carom/schemas/warehouse"
)

const quarantineDir = "quarantine"

// Quarantined is what a file in quarantine says: a record that could not be stored, or a run of
// records that the log lost.
type Quarantined struct {
	Node        string    `json:"node"`
	Incarnation event.ID  `json:"incarnation"`
	Stream      string    `json:"stream"`
	Seq         uint64    `json:"seq"`
	Last        uint64    `json:"last,omitempty"` // last of a lost run
	Reason      string    `json:"reason"`
	Record      []byte    `json:"record,omitempty"` // as it stood in the log; none of a lost run
	Time        time.Time `json:"time"`

	file string
}

// save writes q durably; isNew is false if it was there from an earlier attempt.
func (q Quarantined) save(dir string) (isNew bool, err error) {
	name := filepath.Join(dir, quarantineDir, fmt.Sprintf("%s-%s-%020d.json", q.Stream, q.Incarnation, q.Seq))
	if _, err := os.Stat(name); err == nil {
		return false, nil
	}
	data, err := json.MarshalIndent(q, "", " ")
	if err != nil {
		return false, fmt.Errorf("encode quarantine file: %w", err)
	}
	return true, atomicfile.Write(name, func(w io.Writer) error {
		_, err := w.Write(append(data, '\n'))
		return err
	})
}

// ReadQuarantine returns what lies in the quarantine of the event log in dir, by stream and number.
func ReadQuarantine(dir string) ([]Quarantined, error) {
	names, err := filepath.Glob(filepath.Join(dir, quarantineDir, "*.json"))
	if err != nil {
		return nil, fmt.Errorf("read quarantine: %w", err)
	}
	all := make([]Quarantined, 0, len(names))
	for _, name := range names {
		data, err := os.ReadFile(name) //nolint:gosec // the agent's own folder
		if errors.Is(err, fs.ErrNotExist) {
			continue // stored by somebody else meanwhile
		}
		if err != nil {
			return nil, fmt.Errorf("read quarantine: %w", err)
		}
		q := Quarantined{file: name}
		if err := json.Unmarshal(data, &q); err != nil {
			return nil, fmt.Errorf("read quarantine: %s: %w", name, err)
		}
		all = append(all, q)
	}
	slices.SortFunc(all, func(a, b Quarantined) int {
		return cmp.Or(strings.Compare(a.Stream, b.Stream), strings.Compare(a.Incarnation.String(), b.Incarnation.String()), cmp.Compare(a.Seq, b.Seq))
	})
	return all, nil
}

// ErrLost is the error of Retry for records that the log lost: there is nothing to store.
var ErrLost = errors.New("the log lost the record")

// Retry tries again to store q, and takes its file away when it is stored. It may be repeated, and run
// beside an agent and beside itself: the record has one token, and is asked for first.
func (q Quarantined) Retry(ctx context.Context, conn driver.Conn) error {
	if len(q.Record) == 0 {
		return ErrLost
	}
	var err error
	switch q.Stream {
	case event.StreamEvent:
		err = retry(ctx, conn, warehouse.Events, q)
	case event.StreamGauge:
		err = retry(ctx, conn, warehouse.Gauges, q)
	case event.StreamQueueGauge:
		err = retry(ctx, conn, warehouse.QueueGauges, q)
	case event.StreamAnnotation:
		err = retry(ctx, conn, warehouse.Annotations, q)
	default:
		err = fmt.Errorf("unknown stream %q", q.Stream)
	}
	if err != nil {
		return err
	}
	if err := os.Remove(q.file); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("take the stored record out of quarantine: %w", err)
	}
	return nil
}

func retry[T any](ctx context.Context, conn driver.Conn, table warehouse.Table[T], q Quarantined) error {
	place := warehouse.Place{Node: q.Node, Incarnation: q.Incarnation, From: q.Seq, To: q.Seq}
	stored, _, err := table.Landed(ctx, conn, place)
	if err != nil || len(stored) > 0 {
		return err
	}
	block := table.NewBlock()
	if err := block.AppendRecord(q.Node, q.Incarnation, q.Seq, q.Record); err != nil {
		return err
	}
	token := fmt.Sprintf("%s/%s/%s/%d/quarantine", q.Node, q.Incarnation, q.Stream, q.Seq)
	if err := table.InsertBlock(ctx, conn, token, block); err != nil {
		return err
	}
	if stored, _, err = table.Landed(ctx, conn, place); err == nil && len(stored) == 0 {
		err = errors.New("ClickHouse confirmed the record and does not have it: try again")
	}
	return err
}
