package ship

import (
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"carom/schemas/atomicfile"
	"carom/schemas/warehouse"
)

// pendingFormat begins the file; the CRC-32C of the JSON that follows on the second line ends the
// first one. A batch whose bounds can't be trusted must not be sent.
const pendingFormat = "carom-pending 1 "

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// pending is a batch whose bounds are fixed: what of it is behind the cursor is to be sent exactly
// so, by whatever process and however often.
type pending struct {
	Node        string    `json:"node"`
	Incarnation string    `json:"incarnation"` // as the log writes it
	Schema      uint32    `json:"schema"`      // version of the warehouse's schema it was made for
	Created     time.Time `json:"created"`
	Split       bool      `json:"split"`  // the parts are not the batch as it was sent first
	Ranges      []span    `json:"ranges"` // in order, without gaps between them
}

// span is a run of records that are inserted together.
type span struct {
	From  uint64 `json:"from"`
	To    uint64 `json:"to"` // included
	Token string `json:"token"`
}

func newSpan(node, incarnation, stream string, from, to uint64) span {
	return span{from, to, fmt.Sprintf("%s/%s/%s/%d-%d", node, incarnation, stream, from, to)}
}

func newPending(node, incarnation, stream string, from, to uint64) *pending {
	return &pending{
		Node: node, Incarnation: incarnation, Schema: warehouse.Version(), Created: time.Now().UTC(),
		Ranges: []span{newSpan(node, incarnation, stream, from, to)},
	}
}

// split replaces the first range by ranges that end at each of ends and at its own end.
func (p *pending) split(stream string, ends ...uint64) *pending {
	out := *p
	out.Split, out.Ranges = true, nil
	first := p.Ranges[0]
	from := first.From
	for _, end := range append(ends, first.To) {
		if end >= from && end <= first.To {
			out.Ranges = append(out.Ranges, newSpan(p.Node, p.Incarnation, stream, from, end))
			from = end + 1
		}
	}
	out.Ranges = append(out.Ranges, p.Ranges[1:]...)
	return &out
}

// after drops the ranges that the cursor has passed.
func (p *pending) after(cursor uint64) {
	for len(p.Ranges) > 0 && p.Ranges[0].To <= cursor {
		p.Ranges = p.Ranges[1:]
	}
}

func pendingFile(dir, stream string) string { return filepath.Join(dir, stream+".pending") }

func (p *pending) save(dir, stream string) error {
	data, err := json.Marshal(p)
	if err != nil {
		return fmt.Errorf("encode pending batch: %w", err)
	}
	return atomicfile.Write(pendingFile(dir, stream), func(w io.Writer) error {
		_, err := fmt.Fprintf(w, "%s%08x\n%s\n", pendingFormat, crc32.Checksum(data, castagnoli), data)
		return err
	})
}

// loadPending returns the batch that was being sent last, nil if there was none.
func loadPending(dir, stream string) (*pending, error) {
	name := pendingFile(dir, stream)
	data, err := os.ReadFile(name) //nolint:gosec // the agent's own folder
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read pending batch: %w", err)
	}
	p, err := parsePending(string(data))
	if err != nil {
		return nil, fmt.Errorf("%s: %w; whether its records are stored is for the view completeness to say", name, err)
	}
	return p, nil
}

func parsePending(text string) (*pending, error) {
	head, body, _ := strings.Cut(text, "\n")
	body = strings.TrimSuffix(body, "\n")
	sum, ok := strings.CutPrefix(head, pendingFormat)
	if !ok || sum != fmt.Sprintf("%08x", crc32.Checksum([]byte(body), castagnoli)) {
		return nil, errors.New("damaged, or of another format")
	}
	p := &pending{}
	if err := json.Unmarshal([]byte(body), p); err != nil {
		return nil, fmt.Errorf("damaged: %w", err)
	}
	if len(p.Ranges) == 0 {
		return nil, errors.New("it has no range")
	}
	for i, r := range p.Ranges {
		if r.From > r.To || r.From == 0 || r.Token == "" || i > 0 && r.From != p.Ranges[i-1].To+1 {
			return nil, fmt.Errorf("range %d to %d does not fit", r.From, r.To)
		}
	}
	return p, nil
}
