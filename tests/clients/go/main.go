// Schedules, gets and cancels with the client that oapi-codegen made: use ADDRESS TOKEN.
package main

import (
	"context"
	"fmt"
	"log"
	"net/http"
	"os"

	"delaybox.test/use/made"
)

func check(ok bool, what any) {
	if !ok {
		log.Fatalf("%+v", what)
	}
}

func main() {
	ctx := context.Background()
	bearer := func(_ context.Context, request *http.Request) error {
		request.Header.Set("Authorization", "Bearer "+os.Args[2])
		return nil
	}
	client, err := made.NewClientWithResponses(os.Args[1], made.WithRequestEditorFn(bearer))
	check(err == nil, err)

	var delay made.Duration
	check(delay.FromDuration0("1h") == nil, "a delay")
	high, key := made.High, "from-go"
	// What is not set here is sent as null.
	body := made.TaskRequest{
		Delay:       &delay,
		PayloadJson: map[string]int{"order": 17},
		Priority:    &high,
		Labels:      &map[string]string{"from": "go"},
	}
	params := made.ScheduleTaskParams{IdempotencyKey: &key}
	stored, err := client.ScheduleTaskWithResponse(ctx, &params, body)
	check(err == nil, err)
	check(stored.JSON201 != nil && stored.JSON201.Created, string(stored.Body))
	check(stored.JSON201.DueMs > 1_700_000_000_000, stored.JSON201)
	id := stored.JSON201.Id
	again, err := client.ScheduleTaskWithResponse(ctx, &params, body)
	check(err == nil && again.JSON200 != nil && again.JSON200.Id == id && !again.JSON200.Created, again)
	found, err := client.GetTaskWithResponse(ctx, id, nil)
	check(err == nil && found.JSON200 != nil, found)
	task := *found.JSON200
	check(*task.State == made.TaskStateScheduled && task.Priority == high && *task.Payload == `{"order":17}`, task)
	check(task.DueMs == stored.JSON201.DueMs && task.Due.UnixMilli() == task.DueMs, task)
	free := true
	cancelled, err := client.CancelTaskWithResponse(ctx, id, &made.CancelTaskParams{FreeKey: &free})
	check(err == nil && cancelled.StatusCode() == 204, cancelled)
	gone, err := client.GetTaskWithResponse(ctx, id, nil)
	check(err == nil && gone.ApplicationproblemJSON404 != nil, gone)
	check(gone.ApplicationproblemJSON404.Code == "not_found" && gone.ApplicationproblemJSON404.Title == "Not Found", gone)
	fmt.Println("done")
}
