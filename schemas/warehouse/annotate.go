package warehouse

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
	"github.com/google/uuid"

	"carom/schemas/event"
)

// annotated is the namespace of the incarnations of annotations that no log has (RFC 9562 section 5.5),
// made once.
var annotated = uuid.MustParse("0f6f7a4e-52d5-4c0f-8f0e-5a1f0a6c2d11")

// Annotate stores an annotation that stands in no node's log, unless it is there, and reports whether it
// was not. Its place is the node that a names, such as "schema", and an incarnation made of what it says:
// the same one of the same time is one row, however often it is written, and the view completeness finds
// nothing missing. After an error it may be written again.
func Annotate(ctx context.Context, conn driver.Conn, a event.Annotation) (isNew bool, err error) {
	a.FormatVersion, a.Time = event.FormatVersion, a.Time.UTC()
	said, err := json.Marshal(a)
	if err != nil {
		return false, fmt.Errorf("encode the annotation: %w", err)
	}
	a.Incarnation, a.Seq = uuid.NewSHA1(annotated, said), 1
	seqs, _, err := Annotations.Landed(ctx, conn, Place{Node: a.Node, Incarnation: a.Incarnation, From: 1, To: 1})
	if err != nil || len(seqs) > 0 {
		return false, err
	}
	return true, Annotations.Insert(ctx, conn, a.Node+"/"+a.Incarnation.String(), []event.Annotation{a})
}
