package pmta

import (
	"strings"
	"testing"

	"carom/schemas/event"
	"carom/schemas/suppression"
)

// Hiding recipients changes nothing of what events are put together by.
func TestHideComesLast(t *testing.T) {
	layout, err := NewLayout(strings.Split(Default, ","))
	if err != nil {
		t.Fatal(err)
	}
	options := Options{Tenant: "import", Key: suppression.NewHasher([]byte("secret")).Key}
	open := NewConverter(options)
	options.Hide = func(e *event.Event) { e.Recipient = "hidden@" + e.RecipientDomain }
	hiding := NewConverter(options)
	for record := range strings.Lines(sample(20)) {
		var want, got event.Event
		if err := open.Convert(record, layout, &want); err != nil {
			t.Fatal(err)
		}
		if err := hiding.Convert(record, layout, &got); err != nil {
			t.Fatal(err)
		}
		if want.RecipientKey == "" || want.MessageID == (event.ID{}) || got.Recipient != "hidden@"+want.RecipientDomain ||
			got.RecipientKey != want.RecipientKey || got.MessageID != want.MessageID {
			t.Errorf("%q hidden: recipient %q, key %q, id %s; shown: key %q, id %s", record, got.Recipient, got.RecipientKey, got.MessageID, want.RecipientKey, want.MessageID)
		}
	}
}
