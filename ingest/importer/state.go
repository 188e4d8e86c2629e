package importer

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"

	"carom/schemas/event"
)

// state is a row of the table imports: how far a file is.
type state struct {
	node        string
	incarnation event.ID
	file        string
	headBytes   uint64
	headHash    string
	textBytes   uint64
	fileBytes   uint64
	recordFrom  uint64
	records     uint64
	seqFrom     uint64
	seq         uint64
	skipped     uint64
	done        bool
}

// identify names the file by its beginning.
func (s *state) identify(head []byte, size int64) {
	s.headBytes, s.headHash = uint64(size), hex.EncodeToString(head) //nolint:gosec // not negative
	s.node = "import/" + s.headHash[:16]
	copy(s.incarnation[:], head)
	s.incarnation[6] = s.incarnation[6]&0x0f | 0x80 // RFC 9562 section 5.8: a version of one's own
	s.incarnation[8] = s.incarnation[8]&0x3f | 0x80
}

// token names the batch of the state for ClickHouse, which stores it once.
func (s *state) token() string {
	return fmt.Sprintf("%s/%s/%s/%d-%d", s.node, s.incarnation, event.StreamEvent, s.seqFrom, s.seq)
}

// readStates returns the state of every file that was imported.
func readStates(ctx context.Context, conn driver.Conn) ([]state, error) {
	rows, err := conn.Query(ctx, `
SELECT node, incarnation, file, head_bytes, head_hash, text_bytes, file_bytes, record_from, records, seq_from, seq, skipped, done
FROM imports FINAL`)
	if err != nil {
		return nil, fmt.Errorf("read imports: %w", err)
	}
	defer func() { _ = rows.Close() }() // Err tells what went wrong
	var all []state
	for rows.Next() {
		var s state
		if err := rows.Scan(&s.node, &s.incarnation, &s.file, &s.headBytes, &s.headHash, &s.textBytes, &s.fileBytes,
			&s.recordFrom, &s.records, &s.seqFrom, &s.seq, &s.skipped, &s.done); err != nil {
			return nil, fmt.Errorf("read imports: %w", err)
		}
		all = append(all, s)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("read imports: %w", err)
	}
	return all, nil
}

// write makes the state durable.
func (s *state) write(ctx context.Context, conn driver.Conn, version string) error {
	err := conn.Exec(ctx, `
INSERT INTO imports (node, incarnation, updated_at, file, format, head_bytes, head_hash, text_bytes, file_bytes, record_from, records, seq_from, seq,
    skipped, done, imported_by)
VALUES (?, ?, fromUnixTimestamp64Micro(?, 'UTC'), ?, 'pmta', ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`,
		s.node, s.incarnation.String(), time.Now().UnixMicro(), s.file, s.headBytes, s.headHash, s.textBytes, s.fileBytes,
		s.recordFrom, s.records, s.seqFrom, s.seq, s.skipped, s.done, version)
	if err != nil {
		return fmt.Errorf("write how far the import is: %w", err)
	}
	return nil
}

// recognise returns the state of the file whose text is in, nil if it is a new one. Its name does not
// count: files are renamed, moved and packed. Of several whose head fits the longest counts.
func recognise(in io.Reader, states []state) (*state, error) {
	byLength := map[uint64]map[string]*state{}
	for i := range states {
		s := &states[i]
		if byLength[s.headBytes] == nil {
			byLength[s.headBytes] = map[string]*state{}
		}
		byLength[s.headBytes][s.headHash] = s
	}
	lengths := make([]uint64, 0, len(byLength))
	for length := range byLength {
		lengths = append(lengths, length)
	}
	slices.Sort(lengths)
	head := sha256.New()
	var known *state
	read := uint64(0)
	for _, length := range lengths {
		n, err := io.CopyN(head, in, int64(length-read)) //nolint:gosec // bounded by blockBytes
		read += uint64(n)                                //nolint:gosec // not negative
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, err
		}
		if s := byLength[length][hex.EncodeToString(head.Sum(nil))]; s != nil {
			known = s
		}
	}
	return known, nil
}
