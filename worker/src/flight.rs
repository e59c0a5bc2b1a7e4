//! Corpora and streams over Arrow Flight: what any client of it can read, in any language.
//!
//! ```text
//!  path ["mod_text@3"]                            ─► an endpoint for each shard ─► its rows, masked ones left out
//!  command {"stream": {"plan": {…}, "rank": 0}}   ─► one endpoint               ─► its batches, one after the other
//! ```
//! Tickets are JSON and can be written by hand ([`Wanted`]). It is the way for clients that have nothing but Flight:
//! trainers pull with less copying through `corpusmill.Loader`.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;

use arrow_flight::encode::FlightDataEncoderBuilder;
use arrow_flight::error::FlightError;
use arrow_flight::flight_descriptor::DescriptorType;
use arrow_flight::flight_service_server::{FlightService, FlightServiceServer};
use arrow_flight::{
    Action, ActionType, Criteria, Empty, FlightData, FlightDescriptor, FlightEndpoint, FlightInfo, HandshakeRequest,
    HandshakeResponse, IpcMessage, PollInfo, PutResult, SchemaAsIpc, SchemaResult, Ticket,
};
use corpusmill_batches::{Assembler, BatchData, BatchError, FieldSet, SlabPool};
use corpusmill_corpus::{CorpusError, CorpusReader, StoreOptions, Warehouse};
use corpusmill_serve::Library;
use datafusion::arrow::array::{Array as _, BooleanArray, RecordBatch};
use datafusion::arrow::compute::{cast, filter_record_batch};
use datafusion::arrow::datatypes::{DataType, Schema, SchemaRef};
use datafusion::arrow::ipc::writer::IpcWriteOptions;
use futures::stream::{self, BoxStream};
use futures::{Stream, StreamExt as _, TryStreamExt as _};
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status, Streaming};

use crate::error::{Result, WorkerError};

/// Blocks of a shard, or batches of a stream, that are made side by side.
const AHEAD: usize = 2;
/// Free buffers that a stream keeps for its next batches.
const SLABS_MAX: usize = 16;
/// Fields that are padded to the longest row of their batch.
const PADDED: [&str; 2] = ["input_ids", "attention_mask"];

/// What a ticket, or the command of a descriptor, asks for.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
enum Wanted {
    /// Rows of a corpus.
    Corpus(Rows),
    /// Batches of a plan.
    Stream(Batches),
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Rows {
    /// `name@41`, `name@latest` or `name`.
    name: String,
    /// All when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    columns: Option<Vec<String>>,
    /// The shard, counted in the manifest; all when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    shard: Option<usize>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Batches {
    /// Arguments of `corpusmill.Plan`; `corpora` has the names.
    plan: serde_json::Value,
    #[serde(default)]
    rank: u32,
    #[serde(default = "one_rank")]
    world: u32,
    /// The first step.
    #[serde(default)]
    step: u64,
    /// How many steps; to the end of the plan when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    steps: Option<u64>,
}

fn one_rank() -> u32 {
    1
}

/// Serves at `address` until `shutdown`.
///
/// # Errors
/// [`WorkerError::Invalid`] when it cannot listen there.
pub(crate) async fn serve(
    address: SocketAddr,
    library: Arc<Library>,
    shutdown: CancellationToken,
) -> Result<SocketAddr> {
    let cannot = |error| WorkerError::Invalid(format!("cannot serve Arrow Flight at {address}: {error}"));
    let listener = TcpListener::bind(address).await.map_err(cannot)?;
    let bound = listener.local_addr().map_err(cannot)?;
    tracing::info!(address = %bound, "serves Arrow Flight");
    let service = FlightServiceServer::new(Reader { library });
    tokio::spawn(async move {
        let ended = tonic::transport::Server::builder()
            .add_service(service)
            .serve_with_incoming_shutdown(TcpIncoming::from(listener), shutdown.cancelled_owned())
            .await;
        if let Err(error) = ended {
            tracing::warn!(%error, "Arrow Flight is served no more");
        }
    });
    Ok(bound)
}

/// Reads for clients of Flight.
#[derive(Debug)]
struct Reader {
    library: Arc<Library>,
}

impl Reader {
    async fn warehouse(&self) -> Result<Warehouse, Status> {
        let location = self.library.warehouse().await;
        Warehouse::open(&location, &StoreOptions::new()).map_err(|error| of_corpus(&error))
    }

    async fn open(&self, name: &str) -> Result<CorpusReader, Status> {
        let warehouse = self.warehouse().await?;
        let opened = async {
            let (name, version) = warehouse.resolve(name).await?;
            CorpusReader::open(&warehouse, &name, version).await
        };
        opened.await.map_err(|error| of_corpus(&error))
    }

    /// The ranks of a plan share its open blocks, with those of `corpusmill.Loader` too.
    async fn assembler(&self, wanted: &Batches) -> Result<Assembler, Status> {
        let (library, warehouse, wanted) = (self.library.clone(), self.library.warehouse().await, wanted.clone());
        blocking(move || {
            let plan = library.plan(&wanted.plan.to_string(), warehouse)?;
            plan.order().check_world(wanted.rank, wanted.world)?;
            let fields = FieldSet::all(plan.shape());
            Assembler::new(plan, wanted.rank, wanted.world, fields, SlabPool::new(SLABS_MAX))
        })
        .await
    }

    async fn info(&self, descriptor: FlightDescriptor) -> Result<FlightInfo, Status> {
        match wanted(&descriptor)? {
            Wanted::Corpus(rows) => corpus_info(&self.open(&rows.name).await?, rows, descriptor),
            Wanted::Stream(batches) => {
                let schema = self.first_batch(&batches).await?.0.schema();
                let endpoint = FlightEndpoint::new().with_ticket(ticket(&Wanted::Stream(batches)));
                let info = FlightInfo::new().with_descriptor(descriptor).with_endpoint(endpoint);
                // How many rows a plan has is not known before it was packed; an endless one has no end of them.
                let info = info.with_total_records(-1).with_total_bytes(-1).with_ordered(true);
                info.try_with_schema(&schema)
                    .map_err(|error| Status::internal(error.to_string()))
            }
        }
    }

    /// The first batch of a stream, whose schema is that of all, and what makes the others.
    async fn first_batch(&self, wanted: &Batches) -> Result<(RecordBatch, Arc<Assembler>), Status> {
        let (assembler, step) = (Arc::new(self.assembler(wanted).await?), wanted.step);
        match make(assembler.clone(), step).await? {
            Some(batch) => Ok((batch, assembler)),
            None => Err(Status::out_of_range(format!("the plan ends before step {step}"))),
        }
    }

    async fn rows(&self, rows: Rows) -> Result<(SchemaRef, BoxStream<'static, Result<RecordBatch, Status>>), Status> {
        let reader = self.open(&rows.name).await?;
        let schema = schema_of(&reader, rows.columns.as_deref())?;
        let shards = reader.manifest().shard_files.len();
        if let Some(shard) = rows.shard.filter(|shard| *shard >= shards) {
            return Err(Status::not_found(format!(
                "{} has {shards} shards, and no {shard}",
                rows.name
            )));
        }
        let reader = Arc::new(reader);
        let places: Vec<_> = reader
            .slots()
            .blocks()
            .filter(|(_, shard, _)| rows.shard.is_none_or(|s| s == *shard))
            .collect();
        let columns = Arc::new(rows.columns);
        let batches = stream::iter(places).map(move |(slot, shard, block)| {
            let (reader, columns) = (reader.clone(), columns.clone());
            async move {
                let names: Option<Vec<&str>> = (*columns).as_ref().map(|c| c.iter().map(String::as_str).collect());
                let read = reader.read_block(shard, block, names.as_deref()).await;
                let batch = read.map_err(|error| of_corpus(&error))?;
                without_masked(&reader, slot, &batch)
            }
        });
        Ok((schema, batches.buffered(AHEAD).boxed()))
    }

    async fn batches(
        &self,
        wanted: Batches,
    ) -> Result<(SchemaRef, BoxStream<'static, Result<RecordBatch, Status>>), Status> {
        let (first, assembler) = self.first_batch(&wanted).await?;
        let library = self.library.clone();
        let end = wanted.steps.map_or(u64::MAX, |steps| wanted.step.saturating_add(steps));
        let made = stream::iter(wanted.step.saturating_add(1)..end).map(move |step| {
            let (assembler, lanes) = (assembler.clone(), library.lanes());
            async move {
                // The semaphore is never closed; without a lane the batch is made all the same.
                let _lane = lanes.acquire_owned().await.ok();
                make(assembler, step).await
            }
        });
        let others = made
            .buffered(AHEAD)
            .try_take_while(|batch| std::future::ready(Ok(batch.is_some())))
            .try_filter_map(|batch| std::future::ready(Ok(batch)));
        let schema = first.schema();
        // No step at all may be asked for.
        let first = stream::iter((wanted.step < end).then_some(Ok(first)));
        Ok((schema, first.chain(others).boxed()))
    }
}

/// The batch of a step as rows; `None` behind the last.
async fn make(assembler: Arc<Assembler>, step: u64) -> Result<Option<RecordBatch>, Status> {
    blocking(move || assembler.batch(step)?.as_ref().map(as_rows).transpose()).await
}

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl FlightService for Reader {
    type HandshakeStream = Answers<HandshakeResponse>;
    type ListFlightsStream = Answers<FlightInfo>;
    type DoGetStream = Answers<FlightData>;
    type DoPutStream = Answers<PutResult>;
    type DoActionStream = Answers<arrow_flight::Result>;
    type ListActionsStream = Answers<ActionType>;
    type DoExchangeStream = Answers<FlightData>;

    /// The newest version of every corpus.
    async fn list_flights(&self, _: Request<Criteria>) -> Result<Response<Self::ListFlightsStream>, Status> {
        let warehouse = self.warehouse().await?;
        let mut found = Vec::new();
        for name in warehouse.corpora().await.map_err(|error| of_corpus(&error))? {
            // A corpus that is being dropped, or that another writer broke, must not hide the others.
            match self.info(FlightDescriptor::new_path(vec![name.clone()])).await {
                Ok(info) => found.push(Ok(info)),
                Err(status) => tracing::warn!(corpus = %name, reason = status.message(), "is not listed"),
            }
        }
        Ok(Response::new(stream::iter(found).boxed()))
    }

    async fn get_flight_info(&self, request: Request<FlightDescriptor>) -> Result<Response<FlightInfo>, Status> {
        Ok(Response::new(self.info(request.into_inner()).await?))
    }

    async fn get_schema(&self, request: Request<FlightDescriptor>) -> Result<Response<SchemaResult>, Status> {
        let schema = match wanted(&request.into_inner())? {
            Wanted::Corpus(rows) => schema_of(&self.open(&rows.name).await?, rows.columns.as_deref())?,
            Wanted::Stream(batches) => self.first_batch(&batches).await?.0.schema(),
        };
        let options = IpcWriteOptions::default();
        let IpcMessage(schema) = SchemaAsIpc::new(&schema, &options)
            .try_into()
            .map_err(|error: datafusion::arrow::error::ArrowError| Status::internal(error.to_string()))?;
        Ok(Response::new(SchemaResult { schema }))
    }

    async fn do_get(&self, request: Request<Ticket>) -> Result<Response<Self::DoGetStream>, Status> {
        let (schema, rows) = match parse(&request.into_inner().ticket)? {
            Wanted::Corpus(rows) => self.rows(rows).await?,
            Wanted::Stream(batches) => self.batches(batches).await?,
        };
        let encoded = FlightDataEncoderBuilder::new()
            .with_schema(schema)
            .build(rows.map_err(|status| FlightError::Tonic(Box::new(status))))
            .map_err(Status::from);
        Ok(Response::new(encoded.boxed()))
    }

    async fn handshake(
        &self,
        _: Request<Streaming<HandshakeRequest>>,
    ) -> Result<Response<Self::HandshakeStream>, Status> {
        Err(Status::unimplemented("no handshake is needed"))
    }

    async fn poll_flight_info(&self, _: Request<FlightDescriptor>) -> Result<Response<PollInfo>, Status> {
        Err(Status::unimplemented("get_flight_info answers at once"))
    }

    async fn do_put(&self, _: Request<Streaming<FlightData>>) -> Result<Response<Self::DoPutStream>, Status> {
        Err(Status::unimplemented("corpora are made by SQL: corpusmill submit FILE"))
    }

    async fn do_exchange(&self, _: Request<Streaming<FlightData>>) -> Result<Response<Self::DoExchangeStream>, Status> {
        Err(Status::unimplemented("corpora are made by SQL: corpusmill submit FILE"))
    }

    async fn do_action(&self, _: Request<Action>) -> Result<Response<Self::DoActionStream>, Status> {
        Err(Status::unimplemented("there are no actions"))
    }

    async fn list_actions(&self, _: Request<Empty>) -> Result<Response<Self::ListActionsStream>, Status> {
        Ok(Response::new(stream::empty().boxed()))
    }
}

fn wanted(descriptor: &FlightDescriptor) -> Result<Wanted, Status> {
    match (descriptor.r#type(), descriptor.path.as_slice()) {
        (DescriptorType::Path, [name]) => Ok(Wanted::Corpus(Rows {
            name: name.clone(),
            columns: None,
            shard: None,
        })),
        (DescriptorType::Cmd, _) => parse(&descriptor.cmd),
        _ => Err(Status::invalid_argument(
            "expected a path of one part, the corpus: [\"mod_text@3\"], or a command in JSON",
        )),
    }
}

fn parse(json: &[u8]) -> Result<Wanted, Status> {
    serde_json::from_slice(json).map_err(|error| {
        Status::invalid_argument(format!(
            "{error}: expected JSON such as {{\"corpus\": {{\"name\": \"mod_text@3\"}}}} or \
             {{\"stream\": {{\"plan\": {{\"corpora\": [\"mod_text@3\"], \"global_batch\": 64}}}}}}"
        ))
    })
}

fn ticket(wanted: &Wanted) -> Ticket {
    Ticket::new(serde_json::to_vec(wanted).expect("a ticket has string keys only"))
}

fn corpus_info(reader: &CorpusReader, rows: Rows, descriptor: FlightDescriptor) -> Result<FlightInfo, Status> {
    let manifest = reader.manifest();
    // The version is pinned, so that all endpoints are of one.
    let name = format!("{}@{}", manifest.corpus, manifest.version);
    let shards = match rows.shard {
        Some(shard) => shard..shard + 1,
        None => 0..manifest.shard_files.len(),
    };
    let endpoint = |shard| {
        let part = Rows {
            name: name.clone(),
            columns: rows.columns.clone(),
            shard: Some(shard),
        };
        FlightEndpoint::new().with_ticket(ticket(&Wanted::Corpus(part)))
    };
    let masked: u64 = manifest.masked.iter().map(|range| range.end - range.start).sum();
    let info = FlightInfo::new()
        .with_descriptor(descriptor)
        .with_endpoints(shards.map(endpoint).collect())
        .with_ordered(true)
        .with_total_records(match rows.shard {
            Some(_) => -1,
            None => i64::try_from(manifest.rows - masked).unwrap_or(-1),
        })
        .with_total_bytes(-1);
    let schema = schema_of(reader, rows.columns.as_deref())?;
    info.try_with_schema(&schema)
        .map_err(|error| Status::internal(error.to_string()))
}

fn schema_of(reader: &CorpusReader, columns: Option<&[String]>) -> Result<SchemaRef, Status> {
    let schema = reader.schema();
    let Some(columns) = columns else { return Ok(schema) };
    let fields = columns.iter().map(|name| {
        let known = || {
            schema
                .fields()
                .iter()
                .map(|field| field.name().as_str())
                .collect::<Vec<_>>()
                .join(", ")
        };
        let field = schema.field_with_name(name);
        field
            .cloned()
            .map_err(|_| Status::not_found(format!("there is no column `{name}` among {}", known())))
    });
    Ok(Arc::new(Schema::new(fields.collect::<Result<Vec<_>, _>>()?)))
}

/// Rows whose slots are masked are delivered to nobody.
fn without_masked(reader: &CorpusReader, first: u64, batch: &RecordBatch) -> Result<RecordBatch, Status> {
    let manifest = reader.manifest();
    if manifest.masked.is_empty() {
        return Ok(batch.clone());
    }
    let kept: BooleanArray = (first..first + batch.num_rows() as u64)
        .map(|slot| Some(!manifest.is_masked(slot)))
        .collect();
    filter_record_batch(batch, &kept).map_err(|error| Status::internal(error.to_string()))
}

/// A batch as rows, with one schema for all steps: rows are padded to the longest of their batch, so their lists have no
/// fixed size, and what has NULLs in one batch may have none in the next.
fn as_rows(batch: &BatchData) -> Result<RecordBatch, BatchError> {
    let rows = batch.rows_as_arrow()?;
    let schema = rows.schema();
    let columns = schema.fields().iter().zip(rows.columns()).map(|(field, array)| {
        let array = match array.data_type() {
            DataType::FixedSizeList(element, _) if PADDED.contains(&field.name().as_str()) => {
                cast(array, &DataType::List(element.clone())).map_err(BatchError::arrow("a batch as Arrow"))?
            }
            _ => array.clone(),
        };
        Ok((field.name().clone(), array, true))
    });
    let columns = columns.collect::<Result<Vec<_>, BatchError>>()?;
    RecordBatch::try_from_iter_with_nullable(columns).map_err(BatchError::arrow("a batch as Arrow"))
}

fn of_corpus(error: &CorpusError) -> Status {
    match error {
        CorpusError::NotFound { .. } => Status::not_found(error.to_string()),
        CorpusError::Argument { .. } => Status::invalid_argument(error.to_string()),
        CorpusError::Corrupt { .. } => Status::data_loss(error.to_string()),
        _ => Status::internal(error.to_string()),
    }
}

/// Runs work that takes longer than an async task may.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, BatchError> + Send + 'static,
) -> Result<T, Status> {
    match tokio::task::spawn_blocking(work).await {
        Ok(Ok(made)) => Ok(made),
        Ok(Err(error)) if error.retry() => Err(Status::unavailable(error.with_causes())),
        Ok(Err(error)) if error.is_damage() => Err(Status::data_loss(error.with_causes())),
        Ok(Err(error)) => Err(Status::invalid_argument(error.with_causes())),
        Err(panic) => Err(Status::internal(format!(
            "the worker has a fault, please report it: {panic}"
        ))),
    }
}
