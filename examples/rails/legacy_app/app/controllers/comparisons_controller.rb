class ComparisonsController < ApplicationController
  # One product on both sides; either may be missing.
  Row = Struct.new(:id, :here, :there) do
    def differs?(column)
      here.nil? || there.nil? || here[column] != there[column]
    end
  end

  def show
    return render :unavailable unless NewProduct.connection.data_source_exists?(NewProduct.table_name)

    here = Product.all.index_by(&:id)
    there = NewProduct.all.index_by(&:id)
    @columns = Product.column_names & NewProduct.column_names - ["id"]
    @rows = (here.keys | there.keys).sort.map { |id| Row.new(id, here[id], there[id]) }
    @different = @rows.count { |row| @columns.any? { |column| row.differs?(column) } }
  end
end
