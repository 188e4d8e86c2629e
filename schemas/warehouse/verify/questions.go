package verify

import "context"

func (t *trial) questions(context.Context) (string, error) { return "", nil }
