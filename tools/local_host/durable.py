"""Durable Functions: durabletask's in-memory backend, and the pump that hands its work items to the app's functions."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import quote

import durabletask.internal.orchestrator_service_pb2 as pb
import durabletask.internal.orchestrator_service_pb2_grpc as stubs
import grpc
from durabletask.entities import EntityInstanceId
from durabletask.internal import helpers
from durabletask.testing.in_memory_backend import InMemoryOrchestrationBackend, OrchestrationInstance

from tools.local_host.execution import Execute
from tools.local_host.messages import Message, as_bytes
from tools.local_host.settings import HostConfig
from tools.local_host.worker import Function, InvocationError, Worker

MESSAGE_LIMIT = 2**31 - 1  # gRPC's own default of 4 MB is too little for a large input or result
_NO_LIMIT = (("grpc.max_receive_message_length", MESSAGE_LIMIT), ("grpc.max_send_message_length", MESSAGE_LIMIT))
_ENDED = (pb.ORCHESTRATION_STATUS_COMPLETED, pb.ORCHESTRATION_STATUS_FAILED, pb.ORCHESTRATION_STATUS_TERMINATED)
log = logging.getLogger("tools.local_host.durable")


class Backend(InMemoryOrchestrationBackend):
    """The in-memory backend, on a loopback port of its own choice, fit for long jobs. What it holds ends with the host."""

    def __init__(self) -> None:
        super().__init__(max_history_size=1_000_000)
        self.address = ""

    def start(self) -> str:
        self._server = grpc.server(ThreadPoolExecutor(max_workers=64), options=_NO_LIMIT)
        stubs.add_TaskHubSidecarServiceServicer_to_server(self, self._server)  # type: ignore[no-untyped-call]
        self.address = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        self._server.start()
        return self.address

    def _wait_for_state(self, instance_id: str, predicate: Callable[[OrchestrationInstance], bool],
                        timeout: float | None) -> OrchestrationInstance | None:
        # The base class takes "no timeout" for 30 seconds: a parent would wait for ever on a longer sub-orchestration.
        return super()._wait_for_state(instance_id, predicate, threading.TIMEOUT_MAX if timeout is None else timeout)

    def StartInstance(self, request: pb.CreateInstanceRequest, context: grpc.ServicerContext) -> pb.CreateInstanceResponse:
        # The extension's default: the id of an instance that has ended can be used again, that of a running one cannot.
        if not request.orchestrationIdReusePolicy.replaceableStatus:
            request.orchestrationIdReusePolicy.replaceableStatus.extend(_ENDED)
        return super().StartInstance(request, context)

    def CompleteActivityTask(self, request: pb.ActivityResponse, context: grpc.ServicerContext) -> pb.CompleteTaskResponse:
        # An activity that ends after its orchestration was terminated must not wake it again.
        with self._lock:
            instance = self._instances.get(request.instanceId)
            if instance is not None and self._is_terminal_status(instance.status):
                return pb.CompleteTaskResponse()
        return super().CompleteActivityTask(request, context)


class DurablePump:
    """Feeds the backend's work items to the app's orchestrators, activities and entities until cancelled."""

    def __init__(self, worker: Worker, execute: Execute, config: HostConfig, address: str) -> None:
        self._execute, self._address = execute, address
        self._orchestrators = _by_name(worker, "orchestrationTrigger", "orchestration")
        self._activities = _by_name(worker, "activityTrigger", "activity")
        self._entities = _by_name(worker, "entityTrigger", "entityName")
        self._orchestrator_slots = asyncio.Semaphore(config.orchestrators)
        self._activity_slots = asyncio.Semaphore(config.activities)

    async def run(self) -> None:
        async with grpc.aio.insecure_channel(self._address, options=_NO_LIMIT) as channel, asyncio.TaskGroup() as tasks:
            stub = stubs.TaskHubSidecarServiceStub(channel)  # type: ignore[no-untyped-call]
            async for item in stub.GetWorkItems(pb.GetWorkItemsRequest()):
                tasks.create_task(self._handle(stub, item))

    async def _handle(self, stub: stubs.TaskHubSidecarServiceStub, item: pb.WorkItem) -> None:
        try:
            if item.HasField("activityRequest"):
                async with self._activity_slots:
                    await stub.CompleteActivityTask(await self._run_activity(item.activityRequest, item.completionToken))
            elif item.HasField("orchestratorRequest"):
                async with self._orchestrator_slots:
                    await stub.CompleteOrchestratorTask(await self._replay(item.orchestratorRequest, item.completionToken))
            else:
                async with self._orchestrator_slots:
                    await stub.CompleteEntityTask(await self._run_entity(item.entityRequestV2, item.completionToken))
        except grpc.aio.AioRpcError as error:
            log.error("The durable backend refused a result: %s", error.details())

    async def _replay(self, request: pb.OrchestratorRequest, token: str) -> pb.OrchestratorResponse:
        events = (*request.pastEvents, *request.newEvents)
        name = [e.executionStarted.name for e in events if e.HasField("executionStarted")][-1]
        try:
            answer = await self._call(self._orchestrators, "orchestrator", name, _transport(request))
        except InvocationError as error:
            failed = helpers.new_complete_orchestration_action(-1, pb.ORCHESTRATION_STATUS_FAILED, None, _details(error))
            return pb.OrchestratorResponse(instanceId=request.instanceId, actions=[failed], completionToken=token)
        response = pb.OrchestratorResponse()
        response.ParseFromString(base64.b64decode(answer))
        response.completionToken = token
        return response

    async def _run_activity(self, request: pb.ActivityRequest, token: str) -> pb.ActivityResponse:
        response = pb.ActivityResponse(instanceId=request.orchestrationInstance.instanceId, taskId=request.taskId,
                                       completionToken=token)
        given = Message(json=request.input.value if request.HasField("input") else "null")
        try:
            answer = await self._call(self._activities, "activity", request.name, given)
            response.result.CopyFrom(helpers.get_string_value_or_empty(answer.decode() or "null"))
        except InvocationError as error:
            response.failureDetails.CopyFrom(_details(error))
        return response

    async def _run_entity(self, request: pb.EntityRequest, token: str) -> pb.EntityBatchResult:
        batch, infos = helpers.convert_to_entity_batch_request(request)
        name = EntityInstanceId.parse(request.instanceId).entity
        result = pb.EntityBatchResult()
        try:
            answer = await self._call(self._entities, "entity", name, _transport(batch))
            result.ParseFromString(base64.b64decode(answer))
        except InvocationError as error:
            failure = pb.OperationResult(failure=pb.OperationResultFailure(failureDetails=_details(error)))
            result = pb.EntityBatchResult(results=[failure] * len(batch.operations), entityState=request.entityState)
        result.completionToken = token
        result.operationInfos.extend(infos)
        return result

    async def _call(self, functions: Mapping[str, Function], kind: str, name: str, value: Message) -> bytes:
        function = functions.get(name.lower())
        if function is None:
            raise InvocationError(name, "FunctionNotFound", f"The {kind} function '{name}' does not exist.", "")
        return as_bytes((await self._execute(function, value, {})).return_value)


def is_durable(worker: Worker) -> bool:
    """Whether any function of the app needs a durable backend."""
    kinds = {b["type"] for function in worker.functions.values() for b in function.bindings}
    return bool(kinds & {"orchestrationTrigger", "activityTrigger", "entityTrigger", "durableClient"})


def client_configuration(address: str, base_url: str, task_hub: str, key: str) -> str:
    """What the Durable extension hands to a client binding: where the backend is, and how its webhooks are called."""
    webhooks = f"{base_url}/runtime/webhooks/durabletask"
    query = f"taskHub={quote(task_hub)}&connection=Storage&code={quote(key)}"
    return json.dumps({"taskHubName": task_hub, "connectionName": "Storage", "rpcBaseUrl": address, "baseUrl": webhooks,
                       "httpBaseUrl": webhooks, "requiredQueryStringParameters": query,
                       "maxGrpcMessageSizeInBytes": MESSAGE_LIMIT})


def _by_name(worker: Worker, trigger: str, field: str) -> dict[str, Function]:
    found = (f for f in worker.functions.values() if f.trigger["type"] == trigger)
    return {(f.trigger.get(field) or f.name).lower(): f for f in found}


def _transport(request: pb.OrchestratorRequest | pb.EntityBatchRequest) -> Message:
    return Message(string=base64.b64encode(request.SerializeToString()).decode())


def _details(error: InvocationError) -> pb.TaskFailureDetails:
    # A failure without a message would count as a success.
    return pb.TaskFailureDetails(errorType=error.error_type, errorMessage=error.message or error.error_type,
                                 stackTrace=helpers.get_string_value(error.stack))
